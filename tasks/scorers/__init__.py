"""Scores for the answers of pools: judges, reward models, functions."""
