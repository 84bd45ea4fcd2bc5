"""Parquet copies: a few files that hold what thousands of small files hold, so that DuckDB opens a few.

Each copy lists in its footer the sources that it holds. Copies of about one size are merged when there are many of
them, as in a log-structured merge tree, so that their number grows with the logarithm of the store. All of it is
derived: a copy that cannot be read is made again from its sources.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from storage.files import write_atomically
from storage.sql import literal, parquet

SOURCES = "sources"
MERGED_AT = 8  # copies of one size
MOST_MERGED = 64  # files open at once
SIZES = (0, 1 << 20, 8 << 20, 64 << 20)  # bytes; what is larger than the last is never merged
KEPT_S = 3600  # for readers of an older catalog
FILES_PER_READ = 100
FILE = "synthmill_file"


class Copies:
    """The copies of one kind in a folder: `files` maps each to its sources. No source is in two of them."""

    def __init__(self, folder: Path, wanted: Collection[str], *, exact: bool = False, target: Path | None = None):
        """wanted: the sources there are. exact: a copy that holds anything else is not used; otherwise, if it holds
        more that is gone than is there. target: where new copies go, if not in the folder.
        """
        self.target = target or folder
        self.files: dict[Path, frozenset[str]] = {}
        self.superseded: list[Path] = []
        wanted, covered = frozenset(wanted), set[str]()
        paths = [path for place in {folder, self.target} if place.is_dir() for path in place.iterdir()]
        sources = {path: sources_of(path) for path in paths if path.suffix == ".parquet" and path.name[0] != "."}
        for path in sorted(sources, key=lambda path: (-len(sources[path]), path)):
            gone = len(sources[path] - wanted)
            if not sources[path] or covered & sources[path] or (gone if exact else 2 * gone > len(sources[path])):
                self.superseded.append(path)
            else:
                self.files[path] = sources[path]
                covered |= sources[path]
        self.missing = wanted - covered

    def add(self, write: Callable[[Path], Collection[str]]) -> None:
        """Let `write` make one more copy; it returns the sources in it, which it puts into the footer."""
        held: list[str] = []
        path = self.target / f"{time.time_ns():020}-{secrets.token_hex(4)}.parquet"
        write_atomically(path, lambda temporary: held.extend(write(temporary)))
        if held:
            self.files[path] = frozenset(held)
        else:
            path.unlink()

    def add_table(self, schema: pa.Schema, parts: Iterable[tuple[Sequence[str], pa.Table]]) -> None:
        """Make one more copy of (sources, rows)."""

        def write(path: Path) -> Collection[str]:
            held: list[str] = []
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for sources, table in parts:
                    writer.write_table(table.cast(schema))
                    held += sources
                writer.add_key_value_metadata(footer(held))
            return held

        self.add(write)

    def merge(self, order: str = "") -> None:
        """Merge copies of one size where there are many. order: a column to sort their rows by."""
        for low, high in pairwise(SIZES):
            small = sorted(path for path in self.files if low <= path.stat().st_size < high)
            while len(small) >= MERGED_AT:
                self.replace(small[:MOST_MERGED], order)
                del small[:MOST_MERGED]

    def replace(self, files: Sequence[Path], order: str) -> None:
        sources = sorted(frozenset[str]().union(*(self.files[path] for path in files)))
        self.add(lambda path: merge_files(files, sources, path, order))
        for path in files:
            del self.files[path]
            self.superseded.append(path)
            path.touch()

    def sweep(self) -> None:
        """Delete copies that others replaced an hour ago: readers of an older catalog are done with them."""
        for path in self.superseded:
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()


def footer(sources: Iterable[str]) -> dict[str, str]:
    """What a copy says of itself."""
    return {SOURCES: orjson.dumps(list(sources)).decode()}


def sources_of(path: Path) -> frozenset[str]:
    """What a copy holds; nothing where it cannot be read. One that lists nothing is called as its only source."""
    try:
        listed = (pq.read_metadata(path).metadata or {}).get(SOURCES.encode())
        return frozenset(orjson.loads(listed)) if listed else frozenset([path.stem])
    except (OSError, ValueError):
        return frozenset()


def merge_files(files: Sequence[Path], sources: Collection[str], path: Path, order: str) -> Collection[str]:
    rows = f"SELECT * FROM {parquet(files)}" + (f" ORDER BY {order}" if order else "")
    listed = literal(footer(sources)[SOURCES])
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(path.parent)}) as database:
        database.execute(
            f"COPY ({rows}) TO {literal(str(path))} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{SOURCES}: {listed}}})"
        )
    return sources


def read_many(files: Mapping[str, Path], columns: str) -> Iterator[tuple[list[str], pa.Table]]:
    """Read some columns of many small Parquet files, many at once: (sources, their rows with a column `source`).

    files: source -> file. Those that cannot be read are left out.
    """
    names = list(files)
    with duckdb.connect() as database:
        for start in range(0, len(names), FILES_PER_READ):
            batch = names[start : start + FILES_PER_READ]
            try:
                yield batch, read_batch(database, {name: files[name] for name in batch}, columns)
            except duckdb.Error:
                for name in batch:
                    with suppress(duckdb.Error):
                        yield [name], read_batch(database, {name: files[name]}, columns)


def read_batch(database: duckdb.DuckDBPyConnection, files: Mapping[str, Path], columns: str) -> pa.Table:
    paths, names = [str(path) for path in files.values()], list(files)
    rows = f"""SELECT named.source AS source, {columns} FROM {parquet(files.values(), filename=FILE)}
        JOIN (SELECT unnest(?) AS {FILE}, unnest(?) AS source) AS named USING ({FILE})"""
    return database.sql(rows, params=[paths, names]).to_arrow_table()
