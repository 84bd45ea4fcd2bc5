"""Regular expressions of application files, matched with a time limit: a slow one must not stall a run."""

from collections.abc import Callable

import regex

from synthmill.schemas.errors import Drop

LONGEST_S = 2.0


def has_match(pattern: str, text: str, flags: int = 0) -> bool:
    """Whether a pattern matches somewhere in a text. Raises Drop when that takes over 2 s."""
    return _within(regex.compile(pattern, flags).search, pattern, text)


def has_full_match(pattern: str, text: str) -> bool:
    """Whether a pattern matches a text from end to end. Raises Drop when that takes over 2 s."""
    return _within(regex.compile(pattern, regex.DOTALL).fullmatch, pattern, text)


def _within(match: Callable[..., object], pattern: str, text: str) -> bool:
    try:
        return match(text, timeout=LONGEST_S) is not None
    except TimeoutError as error:
        raise Drop(f"slow_pattern: {pattern!r} takes over {LONGEST_S:g} s on a turn; make it simpler") from error
