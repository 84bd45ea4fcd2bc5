"""Tables that a user's program holds: frames of polars and pandas, Arrow tables, lists of dicts, `datasets`.

They become an Arrow table whose `id` is a text, as a file's rows do (storage/plain_files/tables.py): the row's own, or
a hash of its content. A second row with an id is left out, and counted. No library is imported that is not in use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import table_content
from synthmill.storage.plain_files.rows import id_of
from synthmill.storage.plain_files.tables import OURS, inferred

FORMS = "a frame of polars or pandas, an Arrow table, a list of dicts, or a datasets.Dataset"
MEMORY = "a table in memory"


def arrow_of(source: Any) -> pa.Table:
    """The table that a program holds, with plain texts instead of categories. Raises InputError for anything else."""
    library = type(source).__module__.partition(".")[0]
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    if isinstance(source, pl.DataFrame):
        table = source.to_arrow(compat_level=pl.CompatLevel.oldest())
    elif isinstance(source, pa.Table):
        table = source
    elif isinstance(source, pa.RecordBatch):
        table = pa.table(source)
    elif library == "pandas" and hasattr(source, "columns"):
        table = from_pandas(source)
    elif library == "datasets" and hasattr(source, "with_format"):
        if isinstance(source, dict):
            raise InputError(f"found a DatasetDict with the splits {', '.join(source)}; expected one of them")
        table = source.with_format("arrow")[:]
    elif isinstance(source, Sequence) and not isinstance(source, str | bytes):
        table = from_rows(source)
    else:
        raise InputError(f"found {type(source).__name__}; expected a path, {FORMS}")
    if len(set(table.column_names)) < len(table.column_names):
        raise InputError("two columns have the same name; rename one of them")
    return pa.table([plain(column) for column in table.columns], names=table.column_names)


def from_pandas(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"a column holds values of different types; expected one type ({str(error)[:160]})") from error


def from_rows(rows: Sequence[Any]) -> pa.Table:
    """Dicts as a table; a column that a row lacks is null there."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise InputError(f"row {number} is {type(row).__name__}; expected a dict of columns, as {FORMS} has them")
    return pa.Table.from_pylist(list(rows), inferred(rows, MEMORY))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as files have it: no categories, no large or viewed texts, and texts where no type is known."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_null(column.type) or str(column.type) == "string_view":
        return column.cast(pa.string())
    return column


def with_ids(table: pa.Table, id_column: str = "id") -> tuple[pa.Table, list[Dropped]]:
    """(the table with an `id` first, rows that are left out): rows whose id is taken, or is none. Raises InputError for
    a table without rows or columns.
    """
    if not table.num_rows or not table.num_columns:
        raise InputError("the table in memory has no rows; expected one row at least")
    own_ids = table[id_column].to_pylist() if id_column in table.column_names else [None] * table.num_rows
    ids, places, dropped = list[str](), list[int](), list[Dropped]()
    seen_ids: set[str] = set()
    for number, own_id in enumerate(own_ids):
        try:
            row_id = id_of(own_id) or content_of(table.take([number]))[:24]
            if row_id in seen_ids:
                raise Drop(f"duplicate_id: {row_id}")
        except Drop as drop:
            dropped.append(Dropped(id=f"row-{number} ({drop.reason})", reason=drop.reason, detail=drop.detail[:500]))
            continue
        seen_ids.add(row_id)
        ids.append(row_id)
        places.append(number)
    if not ids:
        raise InputError(f"none of the {table.num_rows} rows in memory can be used; the first: {dropped[0].detail}")
    kept = table.take(pa.array(places, pa.int64())) if dropped else table
    names = [name for name in table.column_names if name not in (id_column, "id")]
    columns = {f"source_{name}" if name in OURS else name: kept[name] for name in names}
    return pa.table({"id": pa.array(ids, pa.string()), **columns}), dropped


def content_of(row: pa.Table) -> str:
    """A hash of a table of one row: of its values, as a file's rows have it, or, where JSON has no such values (bytes,
    decimal numbers), of its bytes in Arrow.
    """
    try:
        return content_hash(row.to_pylist()[0])
    except TypeError:
        return table_content(row)
