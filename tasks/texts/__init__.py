"""Words, phrases, ROUGE, languages and tokens of texts."""
