"""Near-duplicates and contamination."""
