"""The language of a text."""

from collections.abc import Callable, Sequence
from functools import cache

from schemas.errors import InputError

FEWEST_LETTERS = 40  # bytes of them, so that a Chinese one counts as three; below, a language is a guess
LOOKED_AT = 1000  # characters


def check_languages(languages: Sequence[str]) -> None:
    """Raises InputError for a language that cannot be told."""
    identify()("")
    from py3langid.langid import IDENTIFIER

    if unknown := [language for language in languages if language not in IDENTIFIER.labels]:
        known = ", ".join(sorted(IDENTIFIER.labels))
        raise InputError(f"filter.languages: {unknown[0]!r} is no language that can be told; expected some of {known}")


@cache
def identify() -> Callable[[str], tuple[str, float]]:
    import py3langid

    classify: Callable[[str], tuple[str, float]] = py3langid.classify
    return classify


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language, by its first 1,000 characters; empty where there is too little of it."""
    head = text[:LOOKED_AT]
    letters = "".join(filter(str.isalpha, head))
    return identify()(head)[0] if len(letters.encode()) >= FEWEST_LETTERS else ""
