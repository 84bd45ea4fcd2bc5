"""Stages that a pipeline's own settings write: prompts without Python, and seed columns that rows are dealt."""
