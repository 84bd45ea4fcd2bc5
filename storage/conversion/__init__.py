"""Files of chats, from one tool's form into another's: what cannot go along is counted and named."""
