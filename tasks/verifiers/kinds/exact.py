"""The answer is the reference, word for word.

Source: docs/papers.md#verifiers.
"""

import re
import unicodedata
from typing import ClassVar, Literal

import orjson
from pydantic import Field

from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed, missing

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
Ignored = Literal["case", "punctuation", "articles", "space"]


class Exact(Verifier):
    """The answer, or its last line, is the reference, or one of several (a JSON list)."""

    short_forms: ClassVar = ("exact",)

    verifier: Literal["exact"] = "exact"
    part: Literal["whole", "last_line"] = Field("whole", description="of the answer")
    ignore: tuple[Ignored, ...] = Field(
        ("space",), description="case, punctuation, articles (English), space (runs of it; always so at both ends)"
    )

    def verdict(self, answer: str, reference: str) -> Verdict:
        references = [text for text in map(self.normalised, texts_in(reference)) if text]
        if not references:
            return missing("no_reference: there is none, or nothing is left of it")
        lines = answer.strip().splitlines() if self.part == "last_line" else [answer]
        own = self.normalised(lines[-1] if lines else "")
        return Verdict(1.0) if own in references else failed("not_equal")

    def normalised(self, text: str) -> str:
        """Canonical composition (NFC), and without what is ignored, in the order of SQuAD's script."""
        text = unicodedata.normalize("NFC", text)
        if "case" in self.ignore:
            text = unicodedata.normalize("NFC", text.casefold())
        if "punctuation" in self.ignore:
            text = "".join(char for char in text if not unicodedata.category(char).startswith("P"))
        if "articles" in self.ignore:
            text = ARTICLES.sub(" ", text)
        return " ".join(text.split()) if "space" in self.ignore else text.strip()


def texts_in(reference: str) -> list[str]:
    """The texts of a JSON list of texts; else the reference itself. Empty where there is none."""
    if reference.lstrip().startswith("["):
        try:
            values = orjson.loads(reference)
        except orjson.JSONDecodeError:
            values = None
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            return values
    return [reference] if reference.strip() else []
