"""Retrievers, their indexes, ranks and metrics."""
