"""Pseudo user inputs: what users of an application could ask, written by a model from the application's prompt alone.

Source: docs/papers.md#genpi, step S1.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from schemas.applications import Application, InputForm
from schemas.calls import Request
from schemas.dialogues import Drafts, PseudoInput
from schemas.endings import ending_of
from schemas.errors import Drop
from schemas.hashing import child_id
from schemas.rows import Dropped, arrow_schema
from schemas.texts import normalised
from tasks.dedup.greedy import first_alike
from tasks.frames import FrameStage
from tasks.prompts import load
from tasks.recipe import Recipe, Steps
from tasks.vectors.embeddings import embed, embedder_name

QUOTES = ('""', "''", "“”")


class DraftInputs(Recipe[Application, Drafts]):
    """Application -> more items than needed, `per_call` from each call; a call that fails costs only its items.

    Source: docs/papers.md#genpi, step S1; the paper: 1,000 wanted, twice as many asked for, 10 in a call.
    """

    name: ClassVar = "drafts"
    version: ClassVar = "2"
    roles: ClassVar = ("author",)
    prompts: ClassVar = {"role_swap/pseudo_inputs": ("count", "demos")}

    wanted: int = Field(1000, ge=1)
    overgenerate: float = Field(2.0, ge=1)
    per_call: int = Field(10, ge=1)

    def requests_per_row(self) -> int:
        return math.ceil(self.wanted * self.overgenerate / self.per_call)

    def steps(self, row: Application) -> Steps[Drafts]:
        messages = load("role_swap/pseudo_inputs").render(row=row, count=self.per_call, demos=row.inputs.demos)
        request = Request(role="author", messages=messages, sampling=self.sampling, optional=True)
        said = yield request.sampled(self.requests_per_row())
        if all(one.error for one in said):
            raise Drop(said[0].error or "engine_error")
        found = [parse_items(one.text, row.inputs, cut=ending_of(one.finish_reason) != "stop") for one in said]
        items = tuple(item for items in found for item in items)
        if not items:
            raise Drop(
                f"no_inputs: none of {len(said)} answers has an item in the form asked for; {shown(said[0].text)}"
            )
        return Drafts.child_of(
            row, self.name, application=row, drafts=items, drawn_by_call=tuple(len(items) for items in found)
        )


def shown(text: str) -> str:
    return f"the first begins {' '.join(text.split())[:80]!r}"


def parse_items(text: str, form: InputForm, *, cut: bool = False) -> list[str]:
    """The items of a numbered list, in order. cut: the text broke off, so its last item is not whole.

    A `list_format` that ends in a line break heads items of several lines; any other begins items of one line.
    """
    mark = re.escape(form.list_format.strip()).replace(r"\{n\}", r"\d+")
    if form.list_format.endswith("\n"):
        items = re.split(rf"^{mark}[ \t]*\n", text, flags=re.MULTILINE)[1:]
    else:
        items = re.findall(rf"^{mark}(.*)", text, flags=re.MULTILINE)
    if cut:
        items = items[:-1]
    return [item for item in (item_of(one, form) for one in items) if item]


def item_of(text: str, form: InputForm) -> str:
    """One item as an input; empty when it is none."""
    if not text.strip().startswith(form.starts_with) or any(word.lower() not in text.lower() for word in form.contains):
        return ""
    if form.after:
        text = re.split(re.escape(form.after), text, flags=re.IGNORECASE)[-1]
    if form.line_break:
        text = text.replace(form.line_break, "\n")
    text = text.strip()
    inside = text[1:-1]
    quoted = text[:1] + text[-1:] in QUOTES and not {text[0], text[-1], "\n"} & set(inside)
    item = inside.strip() if quoted else text
    return item if re.search(r"\w", item) else ""  # "..." is how the form was shown


class PseudoInputs(FrameStage):
    """Drafts -> inputs: exact and near duplicates go (the first stays, demos count), the first `wanted` stay.

    Source: docs/papers.md#genpi, step S1; near duplicates are ours, `threshold=None` leaves them in as the paper does.
    """

    name: ClassVar = "pseudo_inputs"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "application", "drafts")
    adds: ClassVar = tuple(PseudoInput.model_fields)

    wanted: int = Field(1000, ge=1)
    threshold: float | None = Field(0.9, ge=0, le=1, description="cosine from which two inputs count as one")
    embedder: str = "minilm"
    embedder_identity: str = ""
    rows_per_part: int = Field(256, ge=1)

    @classmethod
    def with_embedder(cls, embedder: str, **fields: object) -> "PseudoInputs":
        """The stage with its embedder's identity resolved; raises InputError when there is no such embedder."""
        return cls.model_validate({"embedder": embedder, "embedder_identity": embedder_name(embedder), **fields})

    def rows_per_row(self) -> int:
        return self.wanted

    def parts_begin(self, made: pa.Table) -> list[int]:
        """Parts of `rows_per_part` rows of one application each, so that another one changes none of them."""
        owners = made["parent_id"].to_pylist()
        begins = [0]
        for row, (owner, other) in enumerate(pairwise(owners), 1):
            if owner != other or row - begins[-1] == self.rows_per_part:
                begins.append(row)
        return begins

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        columns: dict[str, list[object]] = {name: [] for name in PseudoInput.model_fields}
        dropped: list[Dropped] = []
        for row in frame.select("id", "application", "drafts").iter_rows(named=True):
            inputs = self.chosen(row["drafts"], row["application"]["inputs"]["demos"], store)
            if not inputs:
                dropped.append(Dropped(id=row["id"], reason="no_inputs", detail="every draft repeats a demo"))
            for text in inputs[: self.wanted]:
                columns["id"].append(child_id(row["id"], text))
                columns["parent_id"].append(row["id"])
                columns["application"].append(row["application"])
                columns["pseudo_input"].append(text)
        empty = pl.DataFrame(arrow_schema(PseudoInput).empty_table())
        return pl.DataFrame(columns, schema=empty.schema), dropped

    def chosen(self, drafts: Sequence[str], demos: Sequence[str], store: Path) -> list[str]:
        """The drafts that stay, in order."""
        if self.threshold is None:
            return list(dict.fromkeys(drafts))
        unlike: dict[str, str] = {}
        for text in (*demos, *drafts):
            unlike.setdefault(normalised(text), text)
        first = list(unlike.values())
        vectors = embed(self.embedder, first, store)
        alike = first_alike(vectors, self.threshold).tolist()
        known = {normalised(demo) for demo in demos}
        return [text for text, like in zip(first, alike, strict=True) if like < 0 and normalised(text) not in known]
