"""Shards: the files of one split, Parquet or lines of JSON, written batch by batch and read the same way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from synthmill.schemas.hashing import file_checksum
from synthmill.storage.files import write_atomically
from synthmill.storage.published.json_lines import Lines, json_lines
from synthmill.storage.published.row_streams import OLDEST, RowStream

GROUP_BYTES = 32 << 20  # of a row group: what a writer and a reader hold at once


@dataclass(frozen=True)
class Shards:
    """The files of one split. start: of their names; rows: in each but the last; lines: as `json_lines` has it."""

    start: str
    rows: int
    count: int
    lines: Lines = ""

    @classmethod
    def of(cls, start: str, rows: RowStream, limit: int, lines: Lines = "") -> "Shards":
        """Files of about equal size in memory, none much over `limit` bytes."""
        pieces = max(1, -(-rows.size // limit))
        per_shard = max(1, -(-rows.height // pieces))
        return cls(start, per_shard, max(1, -(-rows.height // per_shard)), lines)

    @property
    def names(self) -> list[str]:
        """The only file of lines is START.jsonl, which some readers look for."""
        if self.lines and self.count == 1:
            return [f"{self.start}.jsonl"]
        return [self._name(f"{number:05}") for number in range(self.count)]

    @property
    def pattern(self) -> str:
        """A pattern for these names only: files with another number of shards may lie beside them."""
        return self._name("*") if self.count > 1 or not self.lines else self.names[0]

    def _name(self, number: str) -> str:
        return f"{self.start}-{number}-of-{self.count:05}.{'jsonl' if self.lines else 'parquet'}"


def write_shards(folder: Path, shards: Shards, rows: RowStream, objects: Sequence[str] = ()) -> dict[str, str]:
    """Write a split; name -> checksum. objects: as in `plain_types`, or in `json_lines`."""
    frames = FrameCutter(rows.batches())
    if shards.lines:
        return {
            name: write_checked(
                folder / name,
                partial(write_pieces, json_lines(frames.take(shards.rows), shards.lines, objects)),
            )
            for name in shards.names
        }
    schema = arrow_rows(pl.DataFrame(schema=rows.schema), objects).schema
    return {
        name: write_checked(
            folder / name,
            partial(write_groups, schema, (arrow_rows(frame, objects) for frame in frames.take(shards.rows))),
        )
        for name in shards.names
    }


def arrow_rows(frame: pl.DataFrame, objects: Sequence[str]) -> pa.Table:
    return plain_types(frame.to_arrow(compat_level=OLDEST), objects)


class FrameCutter:
    """Cuts a sequence of frames anew, by numbers of rows."""

    def __init__(self, frames: Iterator[pl.DataFrame]) -> None:
        self._frames = frames
        self._rest: pl.DataFrame | None = None

    def take(self, rows: int) -> Iterator[pl.DataFrame]:
        """The next `rows` rows, or fewer at the end."""
        while rows > 0:
            frame = next(self._frames, None) if self._rest is None else self._rest
            if frame is None:
                return
            self._rest = frame[rows:] if frame.height > rows else None
            yield frame[:rows]
            rows -= min(rows, frame.height)


def write_pieces(pieces: Iterable[bytes], path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)


def write_groups(schema: pa.Schema, tables: Iterator[pa.Table], path: Path) -> None:
    """A Parquet file of these rows, in row groups of about `GROUP_BYTES`."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        group: list[pa.Table] = []
        for table in tables:
            if group and sum(piece.nbytes for piece in (*group, table)) > GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group = []
            group.append(table)
        if group:
            writer.write_table(pa.concat_tables(group))


def write_checked(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file atomically; returns the checksum of the bytes written, not of what lies there afterwards."""
    checksums: list[str] = []

    def write_and_hash(temporary: Path) -> None:
        write(temporary)
        checksums.append(file_checksum(temporary))

    write_atomically(path, write_and_hash)
    return checksums[0]


def plain_types(table: pa.Table, objects: Sequence[str] = ()) -> pa.Table:
    """Cast large strings and lists to plain ones, which trainers' casts expect. objects: columns that, where they are
    JSON texts or lists of them, get the JSON type, so that `datasets` returns objects.
    """
    kinds = {field.name: plain_type(field.type) for field in table.schema}
    kinds |= {name: as_json(kinds[name]) for name in objects if name in kinds}
    return table.cast(pa.schema(list(kinds.items())))


def as_json(kind: pa.DataType) -> pa.DataType:
    """The type of JSON that a column of texts, or of lists of them, gets; other types as they are."""
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return pa.list_(pa.json_())
    return pa.json_() if pa.types.is_string(kind) else kind


def plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def with_texts(schema: pa.Schema) -> pa.Schema:
    """A schema whose columns of JSON are texts, which polars can read."""
    return pa.schema([(field.name, as_text(field.type)) for field in schema])


def as_text(kind: pa.DataType) -> pa.DataType:
    """The type that a column of JSON has as texts; other types as they are."""
    if pa.types.is_list(kind) and kind.value_type == pa.json_():
        return pa.list_(pa.string())
    return pa.string() if kind == pa.json_() else kind
