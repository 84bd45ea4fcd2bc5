"""Datasets: folders, formats, cards, the Hub."""
