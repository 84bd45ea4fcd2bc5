"""Rows of any file as texts to compare, and the file again with what was found."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from schemas.errors import Drop, InputError
from schemas.hashing import content_hash
from schemas.messages import as_message, content_in
from schemas.rows import TextRow
from schemas.settings import FileSettings
from storage.plain_files.lines import Line, lines_of, suffix_of
from storage.plain_files.outputs import write_grown
from storage.plain_files.rows import RowKind, name_of, text_of

ROWS_AT_ONCE = 4096
USUAL_COLUMNS = ("prompt", "instruction", "question", "text", "query", "messages", "turns")


class TextSettings(FileSettings):
    """A file of texts. within: columns that must be equal for two rows to be compared."""

    text_column: str
    id_column: str = "id"
    score_column: str = ""
    within: tuple[str, ...] = ()
    only_kept: bool = Field(False, description="leave out rows that an earlier search for duplicates left out")


JUDGED = ("kept", "duplicate_of", "similarity", "layer", "contaminated", "benchmark", "matched_id", "evidence")
"""Columns of earlier verdicts: they say nothing of how much is known of a row."""


def said_in(given: Any) -> tuple[str, tuple[str, ...]]:
    """(a text; of messages, or a list of texts, what they say, one under the other; each message's or text by itself).
    Raises Drop.
    """
    said = [given]
    if isinstance(given, list):
        messages = [as_message(one) for one in given]
        said = [one if message is None else content_in(message) for message, one in zip(messages, given, strict=True)]
        given = "\n".join(one for one in said if isinstance(one, str))
    text = text_of(given, "text")
    if not text.strip():
        raise Drop("empty_text")
    return text, tuple(turn for turn in said if isinstance(turn, str))


def score_of(given: Any, column: str) -> float | None:
    """A number, also one that a CSV file spells; none for NaN. Raises Drop."""
    try:
        score = None if given is None or isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        score = None
    if score is None and given is not None:
        raise Drop(f"bad_score: expected a number in {column!r}, found {given!r:.40}")
    return None if score is None or not math.isfinite(score) else score


def texts_kind() -> RowKind:
    """How a file's rows are read as texts. Ids are their own and their text's hash; of rows that are equal in both, the
    second and following get a number: nothing depends on the order but which of these is which.
    """
    seen: Counter[str] = Counter()

    def read(line: Line, source: TextSettings) -> TextRow:
        if line.fields is None:
            raise Drop(line.fault)
        fields = line.fields
        if fields.get("kept") is False and source.only_kept:
            raise Drop("not_kept")
        text, turns = said_in(fields.get(source.text_column))
        name = name_of(fields.get(source.id_column), "")
        row_id = f"{name}\t{content_hash(text)[:16]}"  # a tab sorts before what ids are made of
        seen[row_id] += 1
        return TextRow(
            id=row_id if seen[row_id] == 1 else f"{row_id}\t{seen[row_id]}",
            text=text,
            turns=turns,
            place=line.place,
            name=name or line.place,
            known=sum(value not in (None, "", []) for key, value in fields.items() if key not in JUDGED),
            score=score_of(fields.get(source.score_column), source.score_column) if source.score_column else None,
            within=json.dumps([fields.get(name) for name in source.within], default=str, sort_keys=True),
        )

    return RowKind("texts", TextRow, read, lambda source: (source.text_column,), lambda row: len(row.text), key="2")


def text_column(path: str, wanted: str = "") -> str:
    """The column of a file's texts: the one that is wanted, or the first usual one that its first row has. Raises
    InputError.
    """
    fields = next((line.fields for line in lines_of(path) if line.fields), {})
    if found := next((name for name in ((wanted,) if wanted else USUAL_COLUMNS) if name in fields), ""):
        return found
    there = ", ".join(sorted(fields)) or "no row that can be read"
    expected = repr(wanted) if wanted else f"one of {', '.join(USUAL_COLUMNS)}"
    raise InputError(f"{path} has no column {expected}; found: {there}")


def write_marked(
    source: str,
    out: Path,
    added: Mapping[str, pa.DataType],
    found: Iterator[Mapping[str, Any]],
    otherwise: Mapping[str, Any],
    limit: int | None = None,
    only: str = "",
) -> tuple[int, int]:
    """The file's rows, in its order, with the columns `added`: (rows written, rows that could not be read). found: by
    `place`, in the same order; rows it leaves out (without a text) get `otherwise`. limit: the first rows only. only:
    write no row in which this added column is true.
    """
    unreadable = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal unreadable
        coming = next(found, None)
        for line in islice(lines_of(source), limit):
            mine = otherwise
            if coming is not None and coming["place"] == line.place:
                mine, coming = coming, next(found, None)
            if line.fields is None:
                unreadable += 1
            elif not (only and mine[only]):
                yield {**line.fields, **{name: mine[name] for name in added}}

    def parts() -> Iterator[list[dict[str, Any]]]:
        some: list[dict[str, Any]] = []
        for row in rows():
            some.append(row)
            if len(some) == ROWS_AT_ONCE:
                yield some
                some = []
        yield some

    local = not source.startswith("hf://") and suffix_of(Path(source)) == ".parquet"
    schema = pq.read_schema(Path(source).expanduser()) if local else None
    return write_grown(out, source, schema, added, parts()), unreadable


def columns_missing(path: str, names: Sequence[str]) -> None:
    """Raises InputError for a column that the file's first row does not have."""
    for name in names:
        if name:
            text_column(path, name)
