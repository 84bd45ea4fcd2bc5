"""Tables as sources: a file of any columns, or a table in memory, becomes an artifact with the same columns."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import TableSettings
from synthmill.storage.artifacts import Store, seal_part, sealed_artifact, sealed_part, table_content, write_manifest
from synthmill.storage.plain_files.rows import fingerprint
from synthmill.storage.plain_files.tables import VERSION, TablePart, look_at_table, read_table_parts
from synthmill.tasks.running.stages import columns_of

ROWS = "rows"
"""The stage of such an artifact."""


def table_key(source: TableSettings, rows_per_part: int) -> str:
    """The key of a file's artifact: its content, and how it is read."""
    name = source.path.rstrip("/").rsplit("/", 1)[-1]
    settings = source.model_dump(exclude={"path", "license"})
    return content_hash([ROWS, VERSION, fingerprint(source), name, settings, rows_per_part])


def ingest_table(store: Store, source: TableSettings, rows_per_part: int, run: str) -> Manifest:
    """Read a file into an artifact of its rows. Raises InputError when it cannot be read, or no row is usable."""
    key = table_key(source, rows_per_part)
    if manifest := sealed_artifact(store, ROWS, key, {}):
        return manifest
    parts = read_table_parts(source, look_at_table(source).schema, rows_per_part)
    manifest = seal_table(store, key, parts, {"source": source.model_dump()}, run)
    if manifest.rows == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
        raise InputError(f"{source.path}: none of the {manifest.rows_in} rows can be used ({reasons})")
    return write_manifest(store, manifest)


def memory_key(table: pa.Table, rows_per_part: int, dropped: Sequence[Dropped] = ()) -> str:
    """The key of the artifact of a table in memory."""
    drops = [[row.model_dump() for row in dropped]] if dropped else []
    return content_hash([ROWS, VERSION, table_content(table), rows_per_part, *drops])


def ingest_memory(
    store: Store, table: pa.Table, rows_per_part: int, run: str, dropped: Sequence[Dropped] = ()
) -> Manifest:
    """Make the artifact of a table in memory, which has an `id`. dropped: rows that are not in it, counted with the
    first part.
    """
    key = memory_key(table, rows_per_part, dropped)
    if manifest := sealed_artifact(store, ROWS, key, {}):
        return manifest
    starts = range(0, max(1, table.num_rows), rows_per_part)
    parts = (
        TablePart(
            table.take(pa.array(range(start, min(start + rows_per_part, table.num_rows)), pa.int64())),
            [] if start else list(dropped),
        )
        for start in starts
    )
    return write_manifest(store, seal_table(store, key, parts, {"source": "memory"}, run))


def seal_table(store: Store, key: str, parts: Iterable[TablePart], facts: dict[str, object], run: str) -> Manifest:
    """Seal the parts of a table that are not there yet; returns the manifest, which is not written."""
    seals, columns = [], dict[str, str]()
    for part in parts:
        part_key = content_hash([ROWS, VERSION, table_content(part.table), [row.model_dump() for row in part.dropped]])
        ids_in = [*part.table["id"].to_pylist(), *(row.id for row in part.dropped)]
        seal = sealed_part(store, ROWS, part_key)
        seals.append(seal or seal_part(store, ROWS, part_key, part.table, part.dropped, ids_in=ids_in))
        columns = columns_of(part.table)
    identity = {"stage": ROWS, "version": VERSION, **facts}
    return Manifest(stage=ROWS, key=key, identity=identity, columns=columns, parts=tuple(seals), run=run)
