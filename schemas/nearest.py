"""Names that a reader may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for an error text, with the nearest of the names that there are; empty where none is near."""
    near = get_close_matches(name, list(names), 1, 0.6)
    return f" (did you mean {near[0]}?)" if near else ""
