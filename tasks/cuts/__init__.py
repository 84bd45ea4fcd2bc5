"""Choices by score: which answers become pairs."""
