"""What a terminal shows, and how work is stopped from it."""
