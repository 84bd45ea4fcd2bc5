"""Regular expressions of application files, searched with a time limit: a careless one must not hold up a run."""

from collections.abc import Callable

import regex

from schemas.errors import Drop

LONGEST_S = 2.0


def searched(pattern: str, text: str, flags: int = 0) -> bool:
    """Whether a pattern is found in a text. Raises Drop when that takes over 2 s."""
    return _within(regex.compile(pattern, flags).search, pattern, text)


def fits(pattern: str, text: str) -> bool:
    """Whether a text is from end to end what a pattern allows. Raises Drop when that takes over 2 s."""
    return _within(regex.compile(pattern, regex.DOTALL).fullmatch, pattern, text)


def _within(match: Callable[..., object], pattern: str, text: str) -> bool:
    try:
        return match(text, timeout=LONGEST_S) is not None
    except TimeoutError as error:
        raise Drop(f"slow_pattern: {pattern!r} takes over {LONGEST_S:g} s on a turn; make it simpler") from error
