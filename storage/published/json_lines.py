"""Rows as lines of JSON."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson
import polars as pl

Lines = Literal["", "even", "sparse"]
"""How rows are written as lines: not at all; every row with the same keys, empty ones as null, because readers that
infer a type from the first rows need all of them; or without empty keys, for readers that take a null for a value.
"""


def json_lines(batches: Iterable[pl.DataFrame], lines: Lines, objects: Sequence[str] = ()) -> Iterator[bytes]:
    """Rows, a batch at a time. objects: columns, or COLUMN.FIELD, that are written as JSON where
    they are texts of it, or lists of them.
    """
    for batch in batches:
        written = (json_line(row, lines, objects) for row in batch.iter_rows(named=True))
        yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in written)


def json_line(row: dict[str, Any], lines: Lines, objects: Sequence[str] = ()) -> dict[str, Any]:
    """A row as it is written."""
    for name in objects:
        outer, _, inner = name.rpartition(".")
        fields = row.get(outer, {}) if outer else row
        if inner in fields:
            fields[inner] = raw_json(fields[inner])
    return without_empty(row) if lines == "sparse" else row


def raw_json(value: Any) -> Any:
    """A JSON text, or those in a list, that are written as they are."""
    if isinstance(value, list):
        return list(map(raw_json, value))
    return orjson.Fragment(value) if isinstance(value, str) else value


def without_empty(value: Any) -> Any:
    """A value without keys whose value is null."""
    if isinstance(value, dict):
        return {name: without_empty(inner) for name, inner in value.items() if inner is not None}
    return list(map(without_empty, value)) if isinstance(value, list) else value
