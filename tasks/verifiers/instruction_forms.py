"""Constraints on an answer's form: keywords, beginnings and ends, case, language, JSON, titles.

Source: docs/papers.md#verifiers (IFEval).
"""

import re
from typing import Literal

import orjson
from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.tasks.texts.code_blocks import code_in
from synthmill.tasks.texts.languages import language_of
from synthmill.tasks.verifiers.instruction_counts import occurrences

Texts = tuple[str, ...]
TITLE = re.compile(r"<<([^\n<>]+)>>")
QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"))
EMPTY_LINE = re.compile(r"\n[^\S\n]*\n")


class Form(Frozen):
    """A constraint that holds or does not."""

    check: str

    def holds(self, text: str) -> bool:
        raise TypeError(f"{type(self).__name__} must define holds(text)")

    def fault(self, text: str) -> str:
        """What breaks the constraint; empty where nothing does."""
        settings = self.model_dump(exclude={"check"}, exclude_defaults=True)
        details = ", ".join(f"{name} {value!r:.60}" for name, value in settings.items())
        return "" if self.holds(text) else f"{self.check}{': ' if details else ''}{details}"


class Keywords(Form):
    """Every one of these stands in the text."""

    check: Literal["keywords"] = "keywords"
    keywords: Texts = Field(min_length=1)
    whole_word: bool = True

    def holds(self, text: str) -> bool:
        return all(occurrences(word, text, self.whole_word) for word in self.keywords)


class Forbidden(Form):
    """None of these words stands in the text."""

    check: Literal["forbidden"] = "forbidden"
    words: Texts = Field(min_length=1)
    whole_word: bool = True

    def holds(self, text: str) -> bool:
        return not any(occurrences(word, text, self.whole_word) for word in self.words)


class StartsWith(Form):
    """The text begins so, in small or capital letters."""

    check: Literal["starts_with"] = "starts_with"
    text: str = Field(min_length=1)

    def holds(self, text: str) -> bool:
        return text.strip().casefold().startswith(self.text.strip().casefold())


class EndsWith(Form):
    """The text ends so, in small or capital letters; quotation marks around it do not count."""

    check: Literal["ends_with"] = "ends_with"
    text: str = Field(min_length=1)

    def holds(self, text: str) -> bool:
        return text.strip().strip('"“”').casefold().endswith(self.text.strip().casefold())


class ParagraphStart(Form):
    """The n-th paragraph begins with a word. paragraphs: how many there must be, if that is said."""

    check: Literal["paragraph_start"] = "paragraph_start"
    number: int = Field(ge=1)
    word: str = Field(min_length=1)
    paragraphs: int | None = Field(None, ge=1)

    def holds(self, text: str) -> bool:
        pieces = [piece.strip() for piece in EMPTY_LINE.split(text) if piece.strip()]
        if len(pieces) < self.number or (self.paragraphs is not None and len(pieces) != self.paragraphs):
            return False
        first = pieces[self.number - 1].split()[0].lstrip("\"'“‘")
        return re.split(r"[.,?!:;'\"”’]", first)[0].casefold() == self.word.casefold()


class Postscript(Form):
    """There is a postscript behind this mark."""

    check: Literal["postscript"] = "postscript"
    mark: str = Field("P.S.", min_length=1)

    def holds(self, text: str) -> bool:
        signs = r"\s?".join(map(re.escape, self.mark.replace(" ", "")))
        return re.search(rf"(?:^|\s){signs}\s*\S", text, re.I) is not None


class Title(Form):
    """A title between << and >>."""

    check: Literal["title"] = "title"

    def holds(self, text: str) -> bool:
        return any(title.strip() for title in TITLE.findall(text))


class Quoted(Form):
    """The whole text stands in double quotation marks."""

    check: Literal["quoted"] = "quoted"

    def holds(self, text: str) -> bool:
        text = text.strip()
        return len(text) > 1 and (text[0], text[-1]) in QUOTES


class Json(Form):
    """The whole text, or its last block of code, is JSON."""

    check: Literal["json"] = "json"

    def holds(self, text: str) -> bool:
        try:
            orjson.loads(code_in(text, "json"))
        except orjson.JSONDecodeError:
            return False
        return True


class Uppercase(Form):
    """There are letters, and all are capitals."""

    check: Literal["uppercase"] = "uppercase"

    def holds(self, text: str) -> bool:
        return text.isupper()


class Lowercase(Form):
    """There are letters, and none is a capital."""

    check: Literal["lowercase"] = "lowercase"

    def holds(self, text: str) -> bool:
        return text.islower()


class NoCommas(Form):
    check: Literal["no_commas"] = "no_commas"

    def holds(self, text: str) -> bool:
        return not re.search("[,，、،]", text)


class Language(Form):
    """The text is in this language (ISO 639-1). One that is too short to tell is taken for it, as in IFEval."""

    check: Literal["language"] = "language"
    language: str = Field(pattern=r"^[a-z]{2,3}(-[A-Za-z]+)?$")

    def holds(self, text: str) -> bool:
        return language_of(text) in ("", self.language.partition("-")[0])


class Options(Form):
    """One of these texts stands in the answer."""

    check: Literal["options"] = "options"
    options: Texts = Field(min_length=1)

    def holds(self, text: str) -> bool:
        return any(option in text for option in self.options)


class Divided(Form):
    """So many different texts, with this between them."""

    check: Literal["divided"] = "divided"
    divider: str = Field("******", min_length=1)
    count: int = Field(2, ge=2)

    def holds(self, text: str) -> bool:
        pieces = [piece.strip() for piece in text.split(self.divider)]
        if not pieces[0]:  # a divider may stand before the first and behind the last
            pieces = pieces[1:]
        if pieces and not pieces[-1]:
            pieces = pieces[:-1]
        return len(pieces) == self.count and len(set(pieces)) == self.count and all(pieces)
