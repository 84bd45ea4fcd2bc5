"""Rows that are read batch by batch, as often as needed, so that no dataset has to fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from synthmill.schemas.hashing import digest

BATCH_BYTES, BATCH_ROWS = 16 << 20, 8192
"""The most that a batch holds: bytes before compression, by the Parquet file's metadata, and rows."""
READ_AHEAD = 1 << 20  # bytes of a column read at once: a row group may be as large as its file
PRE_BUFFER = False  # pyarrow's default holds the bytes of every row group until the last one is read
OLDEST = pl.CompatLevel.oldest()

Columns = Sequence[str] | None
Batches = Callable[[Columns], Iterator[pl.DataFrame]]


class RowStream:
    """Rows in their order. read: names of columns (None for all) -> frames of some thousand rows, from the first row at
    every call; one empty frame where there is no row. height, schema: the number of rows, and their columns, where both
    are known without reading.
    """

    def __init__(
        self, read: Batches, height: Callable[[], int] | None = None, schema: Callable[[], pl.Schema] | None = None
    ) -> None:
        self._read = read
        self._height = height
        self._schema = schema

    @classmethod
    def of(cls, rows: "pl.DataFrame | RowStream") -> "RowStream":
        """Rows that are in memory already."""
        if isinstance(rows, RowStream):
            return rows

        def read(columns: Columns) -> Iterator[pl.DataFrame]:
            frame = rows if columns is None else rows.select(columns)
            step = rows_at_once(int(frame.estimated_size()), frame.height)
            yield from (frame[start : start + step] for start in range(0, max(1, frame.height), step))

        return cls(read, lambda: rows.height, lambda: rows.schema)

    @classmethod
    def chained(cls, streams: Sequence["RowStream"]) -> "RowStream":
        """The rows of several streams with the same columns, one after the other."""

        def read(columns: Columns) -> Iterator[pl.DataFrame]:
            return chain.from_iterable(stream.batches(columns) for stream in streams)

        return cls(read, lambda: sum(stream.height for stream in streams), lambda: streams[0].schema)

    def batches(self, columns: Columns = None) -> Iterator[pl.DataFrame]:
        """All rows; all their columns, or some, in this order."""
        return self._read(columns)

    @cached_property
    def schema(self) -> pl.Schema:
        return next(self.batches()).schema if self._schema is None else self._schema()

    @property
    def columns(self) -> list[str]:
        return self.schema.names()

    @cached_property
    def height(self) -> int:
        return self._measured[0] if self._height is None else self._height()

    @property
    def size(self) -> int:
        """Bytes of all rows in Arrow's memory."""
        return self._measured[1]

    @cached_property
    def _measured(self) -> tuple[int, int]:
        rows = size = 0
        for batch in self.batches():
            rows, size = rows + batch.height, size + batch.to_arrow(compat_level=OLDEST).nbytes
        return rows, size

    def map(self, work: Callable[[pl.DataFrame], pl.DataFrame], *, same_height: bool = True) -> "RowStream":
        """Apply a function that treats each row by itself to every batch. same_height: it makes one row of each."""

        def read(columns: Columns) -> Iterator[pl.DataFrame]:
            for batch in self.batches():
                rows = work(batch)
                yield rows if columns is None else rows.select(columns)

        return RowStream(read, (lambda: self.height) if same_height else None)

    def filter(self, predicate: pl.Expr) -> "RowStream":
        """The rows for which an expression over their own columns is true."""
        needed = predicate.meta.root_names()

        def read(columns: Columns) -> Iterator[pl.DataFrame]:
            columns_read = None if columns is None else list(dict.fromkeys([*columns, *needed]))
            for batch in self.batches(columns_read):
                rows = batch.filter(predicate)
                yield rows if columns is None else rows.select(columns)

        return RowStream(read, lambda: sum(batch.height for batch in read(needed or None)), lambda: self.schema)

    def unique(self, column: str) -> "RowStream":
        """The first row of every value of a column."""

        def read(columns: Columns) -> Iterator[pl.DataFrame]:
            digests: set[bytes] = set()
            for batch in self.batches(None if columns is None else list(dict.fromkeys([*columns, column]))):
                flags = []
                for key in map(digest, batch[column].to_list()):
                    flags.append(key not in digests)
                    digests.add(key)
                rows = batch.filter(pl.Series(flags, dtype=pl.Boolean))
                yield rows if columns is None else rows.select(columns)

        return RowStream(read, schema=lambda: self.schema)

    def where(self, flags: pl.Series) -> "RowStream":
        """The rows whose flag, by their place, is true."""

        def read(columns: Columns) -> Iterator[pl.DataFrame]:
            start = 0
            for batch in self.batches(columns):
                yield batch.filter(flags[start : start + batch.height])
                start += batch.height

        return RowStream(read, lambda: int(flags.sum()), lambda: self.schema)

    def take(self, places: Sequence[int], columns: Columns = None) -> pl.DataFrame:
        """The rows at some places; places beyond the end are ignored. places: ascending."""
        frames, start = [], 0
        rows_wanted = pl.Series(places, dtype=pl.Int64)
        for batch in self.batches(columns):
            frames.append(
                detached(
                    batch[rows_wanted.filter((rows_wanted >= start) & (rows_wanted < start + batch.height)) - start]
                )
            )
            start += batch.height
            if not places or start > places[-1]:
                break
        return pl.concat(frames)

    def frame(self, columns: Columns = None) -> pl.DataFrame:
        """All rows in memory at once."""
        return pl.concat([detached(batch) for batch in self.batches(columns)])


def detached(frame: pl.DataFrame) -> pl.DataFrame:
    """A copy of a frame: polars' texts point into their batch, and would keep all of it in memory."""
    return pl.DataFrame(frame.to_arrow(compat_level=OLDEST), schema=frame.schema)


def rows_at_once(size: int, rows: int) -> int:
    """How many rows a batch has, so that it holds no more than `BATCH_BYTES` of `size` bytes in all."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size)))


def parquet_schema(path: Path, convert: Callable[[pa.Schema], pa.Schema] = lambda schema: schema) -> pl.Schema:
    """A Parquet file's columns as polars has them; convert: applied to its schema first."""
    return pl.DataFrame(convert(pq.read_schema(path)).empty_table()).schema


def parquet_batches(path: Path, columns: Columns) -> Iterator[pa.Table]:
    """A Parquet file batch by batch, whatever its row groups; one empty table where it has no row."""
    with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=PRE_BUFFER) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        step = rows_at_once(sum(group.total_byte_size for group in groups), file.metadata.num_rows)
        names = None if columns is None else list(columns)
        empty = True
        for batch in file.iter_batches(step, columns=names):
            empty = False
            table = pa.Table.from_batches([batch])
            yield table if names is None else table.select(names)
        if empty:
            table = file.schema_arrow.empty_table()
            yield table if names is None else table.select(names)
