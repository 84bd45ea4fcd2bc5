"""Parquet copies: a few files that hold what thousands of small files hold, so that DuckDB opens a few.

Each copy lists in its footer the sources that it holds. Copies of about one size are merged when there are many of
them, as in a log-structured merge tree, so that their number grows with the logarithm of the store. Copies are
derived: an unreadable copy is made again from its sources.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import duckdb
import orjson
import pyarrow.parquet as pq

from synthmill.storage.files import write_atomically
from synthmill.storage.sql import literal, parquet

SOURCES = "sources"
MERGED_AT = 8  # copies of one size
MOST_MERGED = 64  # files open at once
SIZES = (0, 1 << 20, 8 << 20, 64 << 20)  # bytes; what is larger than the last is never merged
KEPT_S = 3600  # for readers of an older catalog
FILES_PER_READ = 100
FILE = "synthmill_file"


class Copies:
    """The copies of one kind in a folder: `files` maps each to its sources. No source is in two of them."""

    def __init__(
        self,
        folder: Path,
        needed: Collection[str],
        *,
        exact: bool = False,
        columns: Collection[str] = (),
        target: Path | None = None,
    ):
        """needed: the sources that exist. exact: ignore a copy that holds any other source; else, ignore a copy most of
        whose sources are gone. columns: ignore a copy that lacks one of them, which an earlier version made. target:
        where new copies go, if not in the folder.
        """
        self.target = target or folder
        self.files: dict[Path, frozenset[str]] = {}
        self.superseded: list[Path] = []
        needed, covered = frozenset(needed), set[str]()
        paths = [path for place in {folder, self.target} if place.is_dir() for path in place.iterdir()]
        held = {path: sources_of(path, columns) for path in paths if path.suffix == ".parquet" and path.name[0] != "."}
        for path in sorted(held, key=lambda path: (-len(held[path]), path)):
            stale = len(held[path] - needed)
            if not held[path] or covered & held[path] or (stale if exact else 2 * stale > len(held[path])):
                self.superseded.append(path)
            else:
                self.files[path] = held[path]
                covered |= held[path]
        self.missing = needed - covered

    def add(self, write: Callable[[Path], Collection[str]]) -> None:
        """Let `write` write one more copy, with its sources in the footer; it returns these."""
        sources: list[str] = []
        path = self.target / f"{time.time_ns():020}-{secrets.token_hex(4)}.parquet"
        write_atomically(path, lambda temporary: sources.extend(write(temporary)))
        if sources:
            self.files[path] = frozenset(sources)
        else:
            path.unlink()

    def add_files(self, files: Mapping[str, Path | str], columns: Mapping[str, str], order: str = "") -> None:
        """Copy some columns of the small Parquet files that are missing, with a column `source`; unreadable files
        are left out. files: source -> file. columns: "name TYPE" -> expression. order: a column to sort by.
        """
        missing = {source: files[source] for source in sorted(self.missing)}
        if missing:
            self.add(lambda path: copy_files(missing, columns, order, path))

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
        """Delete copies that were replaced an hour ago: readers of an older catalog are done with them."""
        for path in self.superseded:
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()


def sources_of(path: Path, columns: Collection[str] = ()) -> frozenset[str]:
    """The sources that a copy holds; none where it cannot be read or lacks a column. A copy without a list is named
    after its source.
    """
    try:
        metadata = pq.read_metadata(path)
        if not set(columns) <= set(metadata.schema.names):
            return frozenset()
        footer = (metadata.metadata or {}).get(SOURCES.encode())
        return frozenset(orjson.loads(footer)) if footer else frozenset([path.stem])
    except (OSError, ValueError):
        return frozenset()


@contextmanager
def scratch_database(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database to write a file with; what does not fit into memory spills beside the file."""
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": f"{path}.spill"}) as database:
        yield database


def write_copy(database: duckdb.DuckDBPyConnection, rows: str, sources: Collection[str], path: Path) -> Collection[str]:
    """Write the rows of a query, with the sources they are from in the footer."""
    footer = literal(orjson.dumps(list(sources)).decode())
    database.execute(
        f"COPY ({rows}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{SOURCES}: {footer}}})"
    )
    return sources


def merge_files(files: Sequence[Path], sources: Collection[str], path: Path, order: str) -> Collection[str]:
    with scratch_database(path) as database:
        return write_copy(database, f"SELECT * FROM {parquet(files)}{order_clause(order)}", sources, path)


def order_clause(column: str) -> str:
    return f" ORDER BY {column}" if column else ""


def copy_files(files: Mapping[str, Path | str], columns: Mapping[str, str], order: str, path: Path) -> Collection[str]:
    names, copied = list(files), list[str]()
    with scratch_database(path) as database:
        database.execute(f"CREATE TABLE rows (source VARCHAR, {', '.join(columns)})")
        for start in range(0, len(names), FILES_PER_READ):
            batch = names[start : start + FILES_PER_READ]
            parts = [batch] if is_inserted(database, batch, files, columns) else [[name] for name in batch]
            for part in parts:
                if part is batch or is_inserted(database, part, files, columns):
                    copied += part
        return write_copy(database, f"SELECT * FROM rows{order_clause(order)}", copied, path)


def is_inserted(
    database: duckdb.DuckDBPyConnection, names: list[str], files: Mapping[str, Path | str], columns: Mapping[str, str]
) -> bool:
    """Insert the rows of all these files; False, with nothing inserted, where one cannot be read."""
    paths = [files[name] for name in names]
    try:
        database.execute(
            f"""INSERT INTO rows SELECT named.source, {", ".join(columns.values())}
            FROM {parquet(paths, filename=FILE)} AS file
            JOIN (SELECT unnest(?) AS {FILE}, unnest(?) AS source) AS named USING ({FILE})""",
            [[str(path) for path in paths], names],
        )
    except duckdb.Error:
        return False
    return True
