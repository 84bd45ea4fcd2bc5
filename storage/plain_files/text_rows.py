"""Rows of any file as texts to compare, and the file again with columns of verdicts."""

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

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.messages import as_message, content_in
from synthmill.schemas.rows import TextRow
from synthmill.schemas.settings import FileSettings
from synthmill.storage.plain_files.lines import Line, lines_of, suffix_of, text_of
from synthmill.storage.plain_files.outputs import write_grown
from synthmill.storage.plain_files.rows import RowKind, name_of

ROWS_AT_ONCE = 4096
USUAL_COLUMNS = ("prompt", "instruction", "question", "text", "query", "messages", "turns", "conversations")


class TextSettings(FileSettings):
    """A file of texts. within: columns that must be equal for two rows to be compared."""

    text_column: str
    id_column: str = "id"
    score_column: str = ""
    within: tuple[str, ...] = ()
    only_kept: bool = Field(False, description="leave out rows that an earlier search for duplicates left out")


JUDGED = ("kept", "duplicate_of", "similarity", "layer", "contaminated", "benchmark", "matched_id", "evidence")
"""Columns of earlier verdicts; they do not count into `TextRow.known`."""


def texts_in(content: Any) -> tuple[str, tuple[str, ...]]:
    """(the whole text, its turns): the content itself, or, of a list of messages or texts, their texts joined by line
    breaks, and each by itself. Raises Drop.
    """
    turns = [content]
    if isinstance(content, list):
        messages = map(as_message, content)
        turns = [
            entry if message is None else content_in(message) for message, entry in zip(messages, content, strict=True)
        ]
        content = "\n".join(turn for turn in turns if isinstance(turn, str))
    text = text_of(content, "text")
    if not text.strip():
        raise Drop("empty_text")
    return text, tuple(turn for turn in turns if isinstance(turn, str))


def score_of(value: Any, column: str) -> float | None:
    """A number, also one that a CSV file spells; none for NaN. Raises Drop."""
    try:
        score = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = None
    if score is None and value is not None:
        raise Drop(f"bad_score: expected a number in {column!r}, found {value!r:.40}")
    return None if score is None or not math.isfinite(score) else score


def texts_kind() -> RowKind:
    """How a file's rows are read as texts. A row's id is its own id and its text's hash; of rows equal in both, the
    second and following get a number. The order of rows decides only these numbers.
    """
    counts: Counter[str] = Counter()

    def read(line: Line, source: TextSettings) -> TextRow:
        if line.fields is None:
            raise Drop(line.fault)
        fields = line.fields
        if fields.get("kept") is False and source.only_kept:
            raise Drop("not_kept")
        text, turns = texts_in(fields.get(source.text_column))
        name = name_of(fields.get(source.id_column), "")
        row_id = f"{name}\t{content_hash(text)[:16]}"  # a tab sorts before what ids are made of
        counts[row_id] += 1
        return TextRow(
            id=row_id if counts[row_id] == 1 else f"{row_id}\t{counts[row_id]}",
            text=text,
            turns=turns,
            place=line.place,
            name=name or line.place,
            known=sum(value not in (None, "", []) for key, value in fields.items() if key not in JUDGED),
            score=score_of(fields.get(source.score_column), source.score_column) if source.score_column else None,
            within=json.dumps([fields.get(name) for name in source.within], default=str, sort_keys=True),
        )

    return RowKind("texts", TextRow, read, lambda source: (source.text_column,), lambda row: len(row.text), key="2")


def text_column(path: str, name: str = "") -> str:
    """The column of a file's texts: the one named, or the first usual one that its first row has. Raises InputError
    where the first row lacks it.
    """
    fields = next((line.fields for line in lines_of(path) if line.fields), {})
    if match := next((usual for usual in ((name,) if name else USUAL_COLUMNS) if usual in fields), ""):
        return match
    columns = ", ".join(sorted(fields)) or "no row that can be read"
    expected = repr(name) if name else f"one of {', '.join(USUAL_COLUMNS)}"
    raise InputError(f"{path} has no column {expected}; found: {columns}")


def write_marked(
    source: str,
    out: Path,
    added: Mapping[str, pa.DataType],
    verdicts: Iterator[Mapping[str, Any]],
    default: Mapping[str, Any],
    limit: int | None = None,
    only: str = "",
) -> tuple[int, int]:
    """The file's rows, in its order, with the columns `added`: (rows written, rows that could not be read). verdicts:
    with `place`, in the same order; rows without one (they have no text) get `default`. limit: the first rows only.
    only: skip rows in which this added column is true.
    """
    unreadable = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal unreadable
        verdict_ahead = next(verdicts, None)
        for line in islice(lines_of(source), limit):
            verdict = default
            if verdict_ahead is not None and verdict_ahead["place"] == line.place:
                verdict, verdict_ahead = verdict_ahead, next(verdicts, None)
            if line.fields is None:
                unreadable += 1
            elif not (only and verdict[only]):
                yield {**line.fields, **{name: verdict[name] for name in added}}

    def parts() -> Iterator[list[dict[str, Any]]]:
        batch: list[dict[str, Any]] = []
        for row in rows():
            batch.append(row)
            if len(batch) == ROWS_AT_ONCE:
                yield batch
                batch = []
        yield batch

    local = not source.startswith("hf://") and suffix_of(Path(source)) == ".parquet"
    schema = pq.read_schema(Path(source).expanduser()) if local else None
    return write_grown(out, source, schema, added, parts()), unreadable


def check_columns_exist(path: str, names: Sequence[str]) -> None:
    """Raises InputError for a column that the file's first row does not have."""
    for name in names:
        if name:
            text_column(path, name)
