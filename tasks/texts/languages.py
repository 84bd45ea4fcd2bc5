"""The language of a text."""

from collections.abc import Callable, Sequence
from functools import cache

from synthmill.schemas.errors import InputError

FEWEST_LETTERS = 40  # bytes of letters, so that a Chinese one counts as three; below, a language is a guess
CHARS_READ = 1000  # of a text: its first characters


def check_languages(languages: Sequence[str]) -> None:
    """Raises InputError for a language that the classifier does not know."""
    load_classifier()("")
    from py3langid.langid import IDENTIFIER

    if unknown := [language for language in languages if language not in IDENTIFIER.labels]:
        labels = ", ".join(sorted(IDENTIFIER.labels))
        raise InputError(f"filter.languages: {unknown[0]!r} is no language that can be told; expected some of {labels}")


@cache
def load_classifier() -> Callable[[str], tuple[str, float]]:
    import py3langid

    classify: Callable[[str], tuple[str, float]] = py3langid.classify
    return classify


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language, by its first 1,000 characters; empty for a text with too few letters."""
    head = text[:CHARS_READ]
    letters = "".join(filter(str.isalpha, head))
    return load_classifier()(head)[0] if len(letters.encode()) >= FEWEST_LETTERS else ""
