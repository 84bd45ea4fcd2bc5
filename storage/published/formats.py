"""The formats that trainers read, made from a dataset's rows batch by batch: frame in, frame out, and no
row is lost unless the format leaves it out.

Every row keeps its `id`; where one row becomes two, theirs end in -chosen and -rejected. Source: docs/publishing.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import polars as pl

from synthmill.schemas.errors import InputError
from synthmill.schemas.formats import Format, ThinkingPlace
from synthmill.storage.published.configurations import Content, Kind, Table
from synthmill.storage.published.forms.alpaca import alpaca
from synthmill.storage.published.forms.messages import dpo, kto, prompts, reward, sft, triplets
from synthmill.storage.published.forms.openai import OBJECTS, openai
from synthmill.storage.published.forms.sharegpt import sharegpt
from synthmill.storage.published.forms.texts import dpo_plain
from synthmill.storage.published.json_lines import json_lines
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.thinking import place_in, with_thinking

WITHOUT_IDS: tuple[Format, ...] = ("triplets", "openai")
"""Formats in which a column of ids would mean something else: ids lie in a file beside them, ids/NAME-SPLIT.txt."""
Frame = pl.DataFrame


class Shape(NamedTuple):
    """How a format is made from a batch, from which kinds of rows, and what its rows are; one_each: one row of each."""

    make: Callable[[Frame, Kind], Frame]
    kinds: tuple[Kind, ...]
    about: str
    one_each: bool = True


ANSWERS: tuple[Kind, ...] = ("conversations", "completions", "preferences")
SHAPES: dict[Format, Shape] = {
    "sft": Shape(sft, ANSWERS, "a conversation to imitate", False),
    "dpo": Shape(dpo, ("preferences",), "a preferred answer over a rejected one, as messages"),
    "dpo-plain": Shape(dpo_plain, ("preferences",), "a preferred answer over a rejected one, as texts"),
    "kto": Shape(kto, ("preferences", "labelled"), "an answer and whether it is wanted", False),
    "reward": Shape(reward, ("preferences",), "a preferred conversation over a rejected one"),
    "prompts": Shape(prompts, ("prompts", "completions", "preferences"), "a prompt"),
    "triplets": Shape(triplets, ("triplets",), "a query, its passage, and one that is not"),
    "sharegpt": Shape(sharegpt, ANSWERS, "a conversation of {from, value}", False),
    "alpaca": Shape(alpaca, ANSWERS, "an instruction and its output", False),
    "openai": Shape(openai, ANSWERS, "a line for OpenAI's fine-tuning", False),
}
KINDS: dict[Format, Kind] = {
    "sft": "conversations",
    "dpo": "preferences",
    "prompts": "other",
    "triplets": "triplets",
}


def unsuited_formats(tables: Mapping[str, Table], formats: Sequence[Format]) -> list[Format]:
    """The formats that no table can be written in."""
    kinds = {table.kind for table in tables.values()}
    return [name for name in formats if name != "as-made" and not kinds & set(SHAPES[name].kinds)]


def format_tables(
    tables: Mapping[str, Table], formats: Sequence[Format], thinking: ThinkingPlace = ""
) -> tuple[dict[str, Table], dict[str, Content]]:
    """Convert each table to each format that suits its kind; returns tables, and files beside them. thinking: where to
    have it; empty: where each format's trainers look.

    Tables are named NAME_FORMAT (a dash is an underscore); `as-made` keeps a table and its NAME. Raises InputError
    where no format suits, and where thinking is wanted in a field that a format does not have.
    """
    if without := [name for name in formats if thinking == "field" and place_in(name, "") != "field"]:
        raise InputError(
            f"{', '.join(without)} has no field for thinking; expected text or drop there, or leave --thinking out: "
            "each format has it where its trainers look"
        )
    shaped: dict[str, Table] = {}
    files: dict[str, Content] = {}
    for format_name in formats:
        for name, table in tables.items():
            if format_name == "as-made":
                placed = {
                    split: with_thinking(rows, place_in(format_name, thinking)) for split, rows in table.splits.items()
                }
                shaped[name] = replace(table, splits=placed)
                continue
            shape = SHAPES[format_name]
            if table.kind not in shape.kinds:
                continue
            place = place_in(format_name, thinking)
            label = f"{name}_{format_name.replace('-', '_')}"
            splits = {
                split: rows_in_format(format_name, with_thinking(rows, place), table.kind)
                for split, rows in table.splits.items()
                if rows.height
            }
            if format_name in WITHOUT_IDS:
                files |= {f"ids/{label}-{split}.txt": partial(id_lines, rows) for split, rows in splits.items()}
            if format_name == "openai":
                files |= {f"openai/{name}-{split}.jsonl": partial(openai_lines, rows) for split, rows in splits.items()}
                continue
            if format_name in WITHOUT_IDS:
                splits = {split: without_ids(rows) for split, rows in splits.items()}
            shaped[label] = Table(splits, KINDS.get(format_name, "other"), f"{shape.about}; from `{name}`")
    if not shaped and not files:
        kinds = ", ".join(f"{name} ({table.kind})" for name, table in tables.items())
        raise InputError(f"nothing here can be written as {', '.join(formats)}; there is {kinds}")
    return shaped or dict(tables), files


def rows_in_format(format_name: Format, rows: RowStream, kind: Kind) -> RowStream:
    """A split in one format."""
    shape = SHAPES[format_name]
    shaped = rows.map(lambda batch: shape.make(batch, kind), same_height=shape.one_each)
    return shaped.unique("prompt") if format_name == "prompts" else shaped


def id_lines(rows: RowStream) -> Iterator[bytes]:
    """An id a line, in the order of the rows."""
    for batch in rows.batches(["id"]):
        yield "".join(f"{row_id}\n" for row_id in batch["id"]).encode()


def without_ids(rows: RowStream) -> RowStream:
    return rows.map(lambda batch: batch.drop("id"))


def openai_lines(rows: RowStream) -> Iterator[bytes]:
    """Rows as OpenAI's files have them: no id, no empty key, tools as objects."""
    return json_lines(without_ids(rows).batches(), "sparse", OBJECTS)
