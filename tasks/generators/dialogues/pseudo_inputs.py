"""Pseudo user inputs: inputs that users of an application might send, written by a model from its prompt alone.

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

from synthmill.schemas.applications import Application, InputForm
from synthmill.schemas.calls import Request
from synthmill.schemas.dialogues import Drafts, PseudoInput
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped, arrow_schema, row_columns
from synthmill.schemas.texts import normalised
from synthmill.tasks.dedup.greedy import first_alike
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.texts.thinking import named_fault
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed

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
        completions = yield request.sampled(self.requests_per_row())
        if all(completion.error for completion in completions):
            raise Drop(completions[0].error or "engine_error")
        items_by_call = [
            parse_items(completion.text, row.inputs, cut=ending_of(completion.finish_reason) != "stop")
            for completion in completions
        ]
        items = tuple(item for items in items_by_call for item in items)
        if not items:
            first = next((each for each in completions if each.text.strip()), completions[0])
            fault = Drop(
                f"no_inputs: none of {len(completions)} answers has an item in the form asked for; "
                f"the first begins {' '.join(first.text.split())[:80]!r}"
            )
            raise named_fault(first, fault)
        return Drafts.child_of(
            row, self.name, application=row, drafts=items, drawn_by_call=tuple(len(items) for items in items_by_call)
        )


def parse_items(text: str, form: InputForm, *, cut: bool = False) -> list[str]:
    """The items of a numbered list, in order. cut: the text is truncated, so its last item is left out.

    A `list_format` that ends in a line break is a heading, its items have several lines; else an item has one line.
    """
    mark = re.escape(form.list_format.strip()).replace(r"\{n\}", r"\d+")
    if form.list_format.endswith("\n"):
        items = re.split(rf"^{mark}[ \t]*\n", text, flags=re.MULTILINE)[1:]
    else:
        items = re.findall(rf"^{mark}(.*)", text, flags=re.MULTILINE)
    if cut:
        items = items[:-1]
    return [cleaned for item in items if (cleaned := clean_item(item, form))]


def clean_item(text: str, form: InputForm) -> str:
    """An item of the list as an input; empty when it is not of the form."""
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
    return item if re.search(r"\w", item) else ""  # "..." is the form's own placeholder


class PseudoInputs(EmbeddingStage):
    """Drafts -> inputs: drops exact and near duplicates of earlier drafts and of demos, keeps the first `wanted`.

    Source: docs/papers.md#genpi, step S1; near duplicates are ours, `threshold=None` leaves them in as the paper does.
    """

    name: ClassVar = "pseudo_inputs"
    version: ClassVar = "1"
    whole: ClassVar = True
    embeds: ClassVar = False  # in the driver, where no engine is
    needs: ClassVar = ("id", "application", "drafts")
    adds: ClassVar = row_columns(PseudoInput)

    wanted: int = Field(1000, ge=1)
    threshold: float | None = Field(0.9, ge=0, le=1, description="cosine from which two inputs count as one")
    rows_per_part: int = Field(256, ge=1)

    def rows_per_row(self) -> int:
        return self.wanted

    def parts_begin(self, table: pa.Table) -> list[int]:
        """Parts of `rows_per_part` rows of one application each, so that another application leaves them unchanged."""
        owners = table["parent_id"].to_pylist()
        begins = [0]
        for row, (owner, next_owner) in enumerate(pairwise(owners), 1):
            if owner != next_owner or row - begins[-1] == self.rows_per_part:
                begins.append(row)
        return begins

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        columns: dict[str, list[object]] = {name: [] for name in row_columns(PseudoInput)}
        dropped: list[Dropped] = []
        for row in frame.select("id", "application", "drafts").iter_rows(named=True):
            inputs = self.select_inputs(row["drafts"], row["application"]["inputs"]["demos"], store)
            if not inputs:
                dropped.append(Dropped(id=row["id"], reason="no_inputs", detail="every draft repeats a demo"))
            for text in inputs[: self.wanted]:
                columns["id"].append(child_id(row["id"], text))
                columns["parent_id"].append(row["id"])
                columns["application"].append(row["application"])
                columns["pseudo_input"].append(text)
        empty = pl.DataFrame(arrow_schema(PseudoInput).empty_table())
        return pl.DataFrame(columns, schema=empty.schema), dropped

    def select_inputs(self, drafts: Sequence[str], demos: Sequence[str], store: Path) -> list[str]:
        """The drafts that are kept, in order."""
        if self.threshold is None:
            return list(dict.fromkeys(drafts))
        distinct: dict[str, str] = {}
        for text in (*demos, *drafts):
            distinct.setdefault(normalised(text), text)
        texts = list(distinct.values())
        vectors = embed(self.embedder, texts, store)
        matches = first_alike(vectors, self.threshold).tolist()
        demo_keys = {normalised(demo) for demo in demos}
        unique = [text for text, match in zip(texts, matches, strict=True) if match < 0]
        return [text for text in unique if normalised(text) not in demo_keys]
