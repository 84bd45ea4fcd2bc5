"""Which part holds a row: 64-bit hashes of ids, sorted, so that `synthmill show ROW_ID` opens the files it needs.

No run needs it. The first `show ROW_ID` makes it, and each later catalog adds the new parts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from synthmill.storage.artifacts import Store
from synthmill.storage.copies import Copies
from synthmill.storage.sql import parquet

HASH = "md5_number_lower({})"


def index_rows(folder: Path, parts: Mapping[str, str], target: Path | None = None) -> list[Path]:
    """Add new parts to the index in a folder; returns its files. parts: checksum -> file, of parts that have ids.

    target: where new files go, if not in the folder.
    """
    copies = Copies(folder, parts, target=target)
    copies.add_files(parts, {"hash UBIGINT": HASH.format("id")}, order="hash")
    if target is None:
        copies.merge("hash")
        copies.sweep()
    return sorted(copies.files)


def parts_with_ids(database: duckdb.DuckDBPyConnection, store: Store) -> dict[str, str]:
    """The parts in a catalog whose rows have ids: checksum -> file."""
    rows = database.execute(
        "SELECT DISTINCT checksum, file FROM internal.parts JOIN artifacts USING (stage, key) WHERE has_id"
    ).fetchall()
    return {checksum: f"{store.root}/{file}" for checksum, file in rows}


def parts_with(database: duckdb.DuckDBPyConnection, index: Iterable[Path], ids: Iterable[str]) -> set[str]:
    """Checksums of the parts that may hold a row with one of these ids."""
    files, names = list(index), list(ids)
    if not files or not names:
        return set()
    hashes = database.execute(f"SELECT {HASH.format('id')} FROM (SELECT unnest(?) AS id)", [names]).fetchall()
    values = ", ".join(str(number) for (number,) in hashes)
    rows = database.execute(f"SELECT DISTINCT source FROM {parquet(files)} WHERE hash IN ({values})").fetchall()
    return {source for (source,) in rows}
