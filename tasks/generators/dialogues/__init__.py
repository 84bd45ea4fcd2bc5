"""Role-swap dialogues from an application's prompt (GenPI)."""
