"""Multifaceted system messages, answers, and a bench of values (Janus)."""
