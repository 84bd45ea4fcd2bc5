"""Any file of rows as a table: every column keeps its name and its type."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import TableSettings
from synthmill.storage.artifacts import CALLS
from synthmill.storage.plain_files.lines import Line, lines_of
from synthmill.storage.plain_files.rows import id_of

VERSION = "1"
OURS = ("parent_id", CALLS)
"""Names that rows have here; a column of a user's that is called so is read as `source_NAME`."""
READ_AT_ONCE = 4096


class TablePart(NamedTuple):
    """The next `rows_per_part` raw rows: those that could be read, with their `id`, and those that could not."""

    table: pa.Table
    dropped: list[Dropped]


class TableLook(NamedTuple):
    """The columns of a file, `id` first, and how many raw rows it has."""

    schema: pa.Schema
    rows: int


def look_at_table(source: TableSettings) -> TableLook:
    """A look at all rows of a file. Raises InputError where a column holds values of different types, or where there
    are no rows.
    """
    schema: pa.Schema | None = None
    rows = 0
    for lines in batches(source, READ_AT_ONCE):
        rows += len(lines)
        fields = [own_columns(line.fields, source) for line in lines if line.fields is not None]
        schema = merged(schema, inferred(fields, source.path), source.path)
    if schema is None or not schema.names:
        raise InputError(f"{source.path} has no rows that can be read; expected one object with columns per row")
    known = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
    return TableLook(pa.schema([pa.field("id", pa.string()), *known]), rows)


def read_table_parts(source: TableSettings, schema: pa.Schema, rows_per_part: int) -> Iterator[TablePart]:
    """The rows of a file, in parts, so that a file that grew keeps its earlier parts."""
    seen_ids: set[str] = set()
    for lines in batches(source, rows_per_part):
        rows, dropped = [], []
        for line in lines:
            try:
                rows.append(row_of(line, source, seen_ids))
            except Drop as drop:
                dropped.append(Dropped(id=line.place, reason=drop.reason, detail=drop.detail[:500]))
        ids = {row["id"] for row in rows}
        dropped = [
            drop.model_copy(update={"id": f"{drop.id} (unreadable)"}) if drop.id in ids else drop for drop in dropped
        ]
        yield TablePart(pa.Table.from_pylist(rows, schema), dropped)


def row_of(line: Line, source: TableSettings, seen_ids: set[str]) -> dict[str, Any]:
    """A raw row with its id: its own, or a hash of its content. Raises Drop."""
    if line.fields is None:
        raise Drop(line.fault)
    row_id = id_of(line.fields.get(source.id_column)) or content_hash(line.fields)[:24]
    if row_id in seen_ids:
        raise Drop(f"duplicate_id: {row_id}")
    seen_ids.add(row_id)
    return {"id": row_id, **own_columns(line.fields, source)}


def own_columns(fields: Mapping[str, Any], source: TableSettings) -> dict[str, Any]:
    """A row's columns besides its id."""
    columns = {f"source_{name}" if name in OURS else name: value for name, value in fields.items()}
    columns.pop(source.id_column, None)
    columns.pop("id", None)
    return columns


def batches(source: TableSettings, rows: int) -> Iterator[list[Line]]:
    """Raw rows, so many at once; a new file of a folder begins a new batch."""
    batch: list[Line] = []
    for number, line in enumerate(lines_of(source.path)):
        if number == source.limit:
            break
        if batch and (len(batch) == rows or line.file != batch[-1].file):
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def inferred(rows: Sequence[Mapping[str, Any]], place: str) -> pa.Schema:
    """The types of rows' columns, in the order in which columns come. Raises InputError."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([pa.field(name, type_of([row.get(name) for row in rows], name, place)) for name in names])


def type_of(values: Sequence[Any], name: str, place: str) -> pa.DataType:
    """The type of a column's values. Raises InputError where they have none in common."""
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise InputError(
            f"{place}: the column {name!r} holds values of different types ({', '.join(kinds)}); expected one type "
            f"per column: write them as texts ({str(error)[:120]})"
        ) from error


def merged(before: pa.Schema | None, after: pa.Schema, place: str) -> pa.Schema:
    """Columns of both; whole numbers beside fractions become such. Raises InputError for types that cannot be one."""
    if before is None:
        return after
    try:
        return pa.unify_schemas([before, after], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{place}: a column holds values of different types; {str(error)[:200]}") from error
