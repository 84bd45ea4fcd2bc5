"""Embeddings, and which of them are near each other."""
