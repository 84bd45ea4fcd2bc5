"""The report page, the card, and their charts."""
