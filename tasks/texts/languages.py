"""The language of a text."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from synthmill.schemas.errors import InputError

FEWEST_LETTERS = 40  # bytes of letters, so that a Chinese one counts as three; below, a language is a guess
LEAST_PROBABILITY = 0.5  # of the likeliest language; code and lists of names have less
NO_LANGUAGE = "zxx"
"""ISO 639's code for text without linguistic content."""
CHARS_READ = 1000  # of a text: its first characters


def check_languages(languages: Sequence[str]) -> None:
    """Raises InputError for a language that the classifier does not know."""
    known = set(load_classifier().nb_classes)
    if unknown := [language for language in languages if language not in known]:
        labels = ", ".join(sorted(known))
        raise InputError(f"filter.languages: {unknown[0]!r} is no language that can be told; expected some of {labels}")


@cache
def load_classifier() -> Any:
    """py3langid's, with probabilities."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language, by its first 1,000 characters; empty where it is a guess: for a text with
    too few letters, for one without language, and where the likeliest one has less than LEAST_PROBABILITY.
    """
    head = text[:CHARS_READ]
    letters = "".join(filter(is_letter, head))
    if len(letters.encode()) < FEWEST_LETTERS:
        return ""
    language, probability = load_classifier().classify(head)
    return "" if language == NO_LANGUAGE or probability < LEAST_PROBABILITY else str(language)


def is_letter(char: str) -> bool:
    """Whether a character is a letter, or a mark that belongs to one: vowel signs, accents."""
    return char.isalpha() or unicodedata.category(char).startswith("M")
