"""A file of chats in a trainers' format, as one file. What a row lost is found by reading what was written."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from synthmill.schemas.errors import InputError
from synthmill.schemas.formats import Format, ThinkingPlace
from synthmill.storage.conversion.chat_files import ChatFile, Look, OnRows, Placed, batched, kind_for
from synthmill.storage.conversion.frames import KINDS, frame_of
from synthmill.storage.conversion.tally import Report, Tally
from synthmill.storage.plain_files.chat_rows import ChatKind, differences
from synthmill.storage.plain_files.forms import forms
from synthmill.storage.plain_files.outputs import write_rows
from synthmill.storage.published.formats import SHAPES
from synthmill.storage.published.forms.openai import OBJECTS
from synthmill.storage.published.json_lines import json_line
from synthmill.storage.published.row_streams import OLDEST
from synthmill.storage.published.thinking import is_thinking_in, moved, place_in


class Target(NamedTuple):
    """kinds: of rows that a format holds, as they are; form: what reads it (storage/plain_files/forms/)."""

    kinds: tuple[ChatKind, ...]
    form: str


BOTH: tuple[ChatKind, ...] = ("preference", "conversation")
TARGETS: Mapping[Format, Target] = {
    "sft": Target(("conversation",), "openai"),
    "dpo": Target(("preference",), "trl"),
    "dpo-plain": Target(("preference",), "trl"),
    "kto": Target(("label",), "trl"),
    "reward": Target(("preference",), "trl"),
    "prompts": Target(("prompt",), "prompts"),
    "sharegpt": Target(BOTH, "sharegpt"),
    "alpaca": Target(BOTH, "alpaca"),
    "openai": Target(BOTH, "openai"),
}
ALONE: tuple[Format, ...] = ("openai",)
"""Formats in which a further column would be refused."""


class Writer:
    """Writes rows of one kind in a format. thinking: where to have it; empty: where the format's trainers look."""

    def __init__(self, name: Format, kind: ChatKind, look: Look, thinking: ThinkingPlace) -> None:
        self.name, self.kind, self.look = name, kind, look
        self.place = place_in(name, thinking)
        self.form = forms()[TARGETS[name].form]
        self.taken = frozenset().union(*(form.reads for form in forms().values()))

    def shaped(self, placed: Sequence[Placed]) -> Any:
        """Rows as the format's frame, with their places in the batch as ids."""
        ids = [str(place) for place in range(len(placed))]
        frame = frame_of([row for _, row in placed], ids, self.kind, self.look)
        if self.place != "field" and is_thinking_in(frame.schema):
            frame = moved(frame, self.place)
        return SHAPES[self.name].make(frame, KINDS[self.kind])

    def schema(self) -> pa.Schema:
        """The columns of a Parquet file: the row's further ones, then the format's."""
        own = self.shaped([]).drop("id").to_arrow(compat_level=OLDEST).schema
        others = [field for field in self.look.others or () if self.carries(field.name) and field.name not in own.names]
        return pa.schema([text_where_unknown(field) for field in others] + list(own))

    def carries(self, column: str) -> bool:
        """Whether a further column goes along: not where it would mean something to a reader."""
        return column not in self.taken and self.name not in ALONE

    def rows(self, placed: Sequence[Placed], lost: Tally) -> Iterator[dict[str, Any]]:
        """Rows as they are written; what they lost is counted."""
        written: dict[int, dict[str, Any]] = {}
        for fields in self.shaped(placed).iter_rows(named=True):
            written[int(fields.pop("id"))] = fields
        for number, (place, row) in enumerate(placed):
            fields = written[number]
            others = {name: value for name, value in row.others.items() if value is not None}
            dropped = [name for name in others if not self.carries(name) or name in fields]
            names = differences(row, self.form.row(fields))
            for name in [*names, *(f"column {name}" for name in dropped)]:
                lost.add(name, place)
            yield {name: value for name, value in row.others.items() if name not in dropped} | fields


def text_where_unknown(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if pa.types.is_null(field.type) else field


def convert_to_format(
    file: ChatFile, name: Format, out: Path, thinking: ThinkingPlace, look: Look, on_rows: OnRows
) -> Report:
    """Write a file of chats in a format. Raises InputError where no row can be written."""
    if name not in TARGETS:
        raise InputError(f"{name} is no format for chats; expected one of {', '.join(TARGETS)}")
    report = Report(file.form.name, look.rows, kinds={str(kind): count for kind, count in look.kinds.items()})
    kind = kind_for(look.kinds, TARGETS[name].kinds, name)
    writer = Writer(name, kind, look, thinking)
    is_parquet = out.suffix == ".parquet"

    def parts() -> Iterator[list[dict[str, Any]]]:
        for placed in batched(file.rows_of_kind(kind, report.left_out, report.lost, on_rows)):
            rows = writer.rows(placed, report.lost)
            report.written += len(placed)
            yield list(rows if is_parquet or name != "openai" else (as_line(row) for row in rows))
        if not report.written:
            reasons = "; ".join([*report.left_out.lines(), *report.lost.lines()])
            raise InputError(f"{file.path}: no row can be written as {name}: {reasons}")

    write_rows(out, writer.schema() if is_parquet else None, parts())
    return report


def as_line(row: dict[str, Any]) -> dict[str, Any]:
    """A row without empty keys, its tools as objects."""
    return json_line(row, "sparse", OBJECTS)
