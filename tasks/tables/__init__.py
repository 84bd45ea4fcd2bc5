"""Stages on tables of any columns: choosing, changing, joining and screening rows, without a model."""
