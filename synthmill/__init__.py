"""Data synthesis for post-training: resumable, exact about what it did, fast."""
