"""Rows of any file as texts to compare, and the file again with what was found."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import Drop, InputError
from schemas.hashing import content_hash
from schemas.rows import TextRow
from schemas.settings import FileSettings
from storage.lines import Line, lines_of, suffix_of
from storage.outputs import write_grown
from storage.sources import RowKind, id_of, text_of

ROWS_AT_ONCE = 4096
USUAL_COLUMNS = ("prompt", "instruction", "question", "text", "query", "messages", "turns")


class TextSettings(FileSettings):
    """A file of texts. within: columns that must be equal for two rows to be compared."""

    text_column: str
    id_column: str = "id"
    score_column: str = ""
    within: tuple[str, ...] = ()


def said_in(given: Any) -> str:
    """A text; of messages, or a list of texts, what they say. Raises Drop."""
    if isinstance(given, list):
        said = [one.get("content") if isinstance(one, dict) else one for one in given]
        given = "\n".join(one for one in said if isinstance(one, str))
    text = text_of(given, "text")
    if not text.strip():
        raise Drop("empty_text")
    return text


def texts_kind() -> RowKind:
    """How a file's rows are read as texts. Their ids are their own, or their text's hash; the second with the same id
    gets a number, so that nothing depends on the order but which of two equal rows is which.
    """
    seen: Counter[str] = Counter()

    def read(line: Line, source: TextSettings) -> TextRow:
        if line.fields is None:
            raise Drop(line.fault)
        fields = line.fields
        text = said_in(fields.get(source.text_column))
        given = id_of(fields.get(source.id_column))
        row_id = given or content_hash(text)[:24]
        seen[row_id] += 1
        score = fields.get(source.score_column) if source.score_column else None
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise Drop(f"bad_score: expected a number in {source.score_column!r}, found {type(score).__name__}")
        return TextRow(
            id=row_id if seen[row_id] == 1 else f"{row_id}#{seen[row_id]}",
            text=text,
            place=line.place,
            name=given or line.place,
            known=sum(value not in (None, "", []) for value in fields.values()),
            score=None if score is None or score != score else float(score),
            within=orjson.dumps([fields.get(name) for name in source.within], default=str).decode(),
        )

    return RowKind("texts", TextRow, read, lambda source: (source.text_column,), lambda row: len(row.text))


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
    only: str = "",
) -> tuple[int, int]:
    """The file's rows, in its order, with the columns `added`: (rows written, rows that could not be read). found: by
    `place`, in the same order; rows it leaves out (without a text) get `otherwise`. only: write no row in which this
    added column is true.
    """
    unreadable = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal unreadable
        coming = next(found, None)
        for line in lines_of(source):
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
