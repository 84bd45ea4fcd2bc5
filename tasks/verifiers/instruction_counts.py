"""Constraints on how many there are of something: words, sentences, keywords, bullets.

Source: docs/papers.md#verifiers (IFEval, whose rules of counting these are).
"""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from synthmill.schemas.calls import Frozen

WORD = re.compile(r"\w+")
ABBREVIATIONS = re.compile(r"\b(?:(?i:Mr|Mrs|Ms|Dr|Prof|vs|e\.g|i\.e)\.|[A-Z]\.(?=\s?[A-Z]))")
"""Full stops that end no sentence: also those of initials."""
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]{0,4}(?=\s|$)|[。！？]+|\n\s*\n")
DIVIDER = re.compile(r"\s?\*\*\*\s?")
BULLET = re.compile(r"^\s{0,40}(?:[*+•](?!\*)|-|\d{1,3}[.)](?=\s)).*$", re.M)
STARS_OR_DASHES = re.compile(r"^\s{0,40}(?:\*[^*\n]|-).*$", re.M)
HIGHLIGHT = re.compile(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\]")


class Count(Frozen):
    """At least, at most, or exactly so many."""

    check: str
    at_least: int | None = Field(None, ge=0)
    at_most: int | None = Field(None, ge=0)
    exactly: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def has_a_limit(self) -> Self:
        if self.at_least is self.at_most is self.exactly is None:
            raise ValueError(f"{self.check} needs at_least, at_most or exactly")
        return self

    def count(self, text: str) -> int:
        raise TypeError(f"{type(self).__name__} must define count(text)")

    def fault(self, text: str) -> str:
        """What breaks the constraint; empty where nothing does."""
        number = self.count(text)
        limits = {"at_least": self.at_least, "at_most": self.at_most, "exactly": self.exactly}
        met = {"at_least": int.__ge__, "at_most": int.__le__, "exactly": int.__eq__}
        broken = [
            f"{name} {limit}" for name, limit in limits.items() if limit is not None and not met[name](number, limit)
        ]
        return f"{self.check}: found {number}, expected {', '.join(broken)}" if broken else ""


class Words(Count):
    check: Literal["words"] = "words"

    def count(self, text: str) -> int:
        return len(WORD.findall(text))


class Sentences(Count):
    check: Literal["sentences"] = "sentences"

    def count(self, text: str) -> int:
        pieces = SENTENCE_END.split(ABBREVIATIONS.sub(" x ", text))
        return sum(bool(WORD.search(piece)) for piece in pieces)


class Paragraphs(Count):
    """divider: between paragraphs; empty: an empty line."""

    check: Literal["paragraphs"] = "paragraphs"
    divider: Literal["", "***"] = ""

    def count(self, text: str) -> int:
        pieces = DIVIDER.split(text) if self.divider else re.split(r"\n[^\S\n]*\n", text)
        return sum(bool(piece.strip()) for piece in pieces)


class Lines(Count):
    check: Literal["lines"] = "lines"

    def count(self, text: str) -> int:
        return sum(bool(line.strip()) for line in text.splitlines())


class Characters(Count):
    check: Literal["characters"] = "characters"

    def count(self, text: str) -> int:
        return len(text.strip())


class Bullets(Count):
    """numbered: 1. and 1) and the signs + and • count, too; else lines that begin with * or - (IFEval)."""

    check: Literal["bullets"] = "bullets"
    numbered: bool = True

    def count(self, text: str) -> int:
        return len((BULLET if self.numbered else STARS_OR_DASHES).findall(text))


class Highlights(Count):
    """Spans between * or **."""

    check: Literal["highlights"] = "highlights"

    def count(self, text: str) -> int:
        return sum(bool((double or single).strip()) for double, single in HIGHLIGHT.findall(text))


class Placeholders(Count):
    """Spans in square brackets, such as [name]."""

    check: Literal["placeholders"] = "placeholders"

    def count(self, text: str) -> int:
        return len(PLACEHOLDER.findall(text))


class Sections(Count):
    """Parts that begin with a word and a number, such as Section 1."""

    check: Literal["sections"] = "sections"
    heading: str = Field("Section", min_length=1)

    def count(self, text: str) -> int:
        return len(re.findall(rf"\s?{re.escape(self.heading)}\s?\d+\s?", text))


class CapitalWords(Count):
    """Words in capitals."""

    check: Literal["capital_words"] = "capital_words"

    def count(self, text: str) -> int:
        return sum(word.isupper() for word in re.findall(r"\w+(?:[-'’]\w+)*", text))


class Letter(Count):
    check: Literal["letter"] = "letter"
    letter: str = Field(min_length=1, max_length=1)

    def count(self, text: str) -> int:
        return text.casefold().count(self.letter.casefold())


class Keyword(Count):
    """How often a word or phrase stands in the text, small or capital. whole_word: not inside longer words."""

    check: Literal["keyword"] = "keyword"
    keyword: str = Field(min_length=1)
    whole_word: bool = True

    def count(self, text: str) -> int:
        return occurrences(self.keyword, text, self.whole_word)

    def fault(self, text: str) -> str:
        fault = super().fault(text)
        return f"{fault} of {self.keyword!r}" if fault else ""


def occurrences(word: str, text: str, whole_word: bool) -> int:
    pattern = re.escape(word)
    return len(re.findall(rf"(?<!\w){pattern}(?!\w)" if whole_word else pattern, text, re.I))
