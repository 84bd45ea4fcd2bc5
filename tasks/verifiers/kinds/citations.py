"""What the answer quotes stands in the passage that it names.

Source: docs/papers.md#verifiers.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed, missing, share_of

QUOTED = re.compile(r"[\"“”„«»]([^\"“”„«»]+)[\"“”„«»]([\s.,;:]{0,4}[\[(]\s{0,4}([^\[\]()\n]{1,200})[\])])?")
SIGNS = str.maketrans({"’": "'", "‘": "'", "–": "-", "—": "-", "…": "..."})
CUT = re.compile(r"\s*(?:\[\s*\.\.\.\s*\]|\.\.\.)\s*")


class Citations(Verifier):
    """Every quoted span stands in the passage named behind it: "..." [3]. The reference holds the passages."""

    short_forms: ClassVar = ("citation",)

    verifier: Literal["citation"] = "citation"
    fewest_words: int = Field(
        3, ge=1, description="a quoted span of fewer words is a name or an emphasis, no quotation"
    )
    fewest_quotes: int = Field(1, ge=0)
    named: bool = Field(True, description="with several passages, each quotation has to name one")
    partial: bool = Field(False, description="the share of the quotations that stand where they should")

    def verdict(self, answer: str, reference: str) -> Verdict:
        passages = passages_in(reference)
        if not passages:
            return missing("bad_reference: expected a passage, or a JSON object or list of passages")
        quotations = [(quoted, name) for quoted, _, name in QUOTED.findall(answer) if self.counts(quoted)]
        if len(quotations) < self.fewest_quotes:
            return failed(f"too_few_quotes: found {len(quotations)}, expected {self.fewest_quotes}")
        if not quotations:
            return Verdict(1.0)
        faults = [fault for quoted, name in quotations if (fault := self.fault(quoted, name, passages))]
        return share_of(faults, len(quotations), self.partial)

    def counts(self, quoted: str) -> bool:
        return len(quoted.split()) >= self.fewest_words

    def fault(self, quoted: str, name: str, passages: Mapping[str, str]) -> str:
        """What is wrong with a quotation; empty where it stands in its passage."""
        names = [part.strip() for part in re.split(r"[,;]", name) if part.strip()]
        known = [part for part in names if part in passages]
        if not known and (named := len(passages) > 1 and self.named):
            return f"no_such_passage: {name[:80]!r}" if names and named else f"unnamed: {quoted[:80]!r}"
        searched = [passages[part] for part in known] or list(passages.values())
        return "" if any(stands_in(quoted, passage) for passage in searched) else f"not_in_passage: {quoted[:80]!r}"


def stands_in(quoted: str, passage: str) -> bool:
    """Whether a passage has the quoted words, in this order where ... leaves some out. plain() made the passage."""
    pieces = [piece for piece in CUT.split(plain(quoted).strip(" .,;:!?")) if piece]
    place = 0
    for piece in pieces:
        if (start := passage.find(piece, place)) < 0:
            return False
        place = start + len(piece)
    return bool(pieces)


def passages_in(reference: str) -> dict[str, str]:
    """Name -> passage, each in plain(): of an object, a list (numbered from 1; or with id or title, and text), or one
    passage.
    """
    try:
        loaded: Any = orjson.loads(reference)
    except orjson.JSONDecodeError:
        return {"1": plain(reference)} if reference.strip() else {}
    if isinstance(loaded, list):
        loaded = {name_of(entry, number): text_of(entry) for number, entry in enumerate(loaded, 1)}
    if not isinstance(loaded, Mapping):
        return {"1": plain(reference)}
    return {str(name): plain(text_of(entry)) for name, entry in loaded.items()}


def name_of(entry: Any, number: int) -> str:
    fields = entry if isinstance(entry, Mapping) else {}
    return str(next((fields[name] for name in ("id", "title") if fields.get(name) is not None), number))


def text_of(entry: Any) -> str:
    return str(entry.get("text", "")) if isinstance(entry, Mapping) else str(entry)


def plain(text: str) -> str:
    """Compatibility forms, straight quotes and dashes, small letters, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text.translate(SIGNS)).casefold().split())
