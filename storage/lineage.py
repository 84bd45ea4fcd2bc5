"""The lineage of a row: from its inputs through every artifact, with the calls it was made from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import orjson
import pyarrow as pa

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import StoreError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import CALLS, Store, read_manifest
from synthmill.storage.catalog import DERIVED, ROWS, is_writable, locked_catalog, open_catalog
from synthmill.storage.row_index import index_rows, parts_with, parts_with_ids
from synthmill.storage.sql import parquet

DERIVED_IDS = ("-chosen", "-rejected")
"""Suffixes of ids in formats that make two rows of one."""


class Call(NamedTuple):
    """A stored request and its answer; messages: (role, content)."""

    key: str
    role: str
    engine: str
    messages: list[tuple[str, str]]
    text: str
    prompt_tokens: int
    completion_tokens: int


class Step(NamedTuple):
    """A row in one artifact. calls: those that this stage made it from."""

    manifest: Manifest
    row: dict[str, Any]
    calls: list[Call]


class Lineage(NamedTuple):
    """The steps to a row, its inputs first, and where it was dropped: (artifact, the dropped row)."""

    steps: list[Step]
    drops: list[tuple[str, Dropped]]


class RowLookup(NamedTuple):
    """Finds rows of a store by id, with its catalog and the files of its index from ids to parts."""

    store: Store
    catalog: duckdb.DuckDBPyConnection
    files: list[Path]

    def manifest(self, stage: str, key: str) -> Manifest:
        return read_manifest(self.store.manifest_path(stage, key))

    def artifacts_with(self, row_id: str) -> Iterator[Manifest]:
        """The artifacts that may hold a row, the newest first."""
        parts = list(parts_with(self.catalog, self.files, [row_id]))
        for name in self.catalog.execute(
            """SELECT DISTINCT stage, key, made_at FROM artifacts JOIN internal.parts USING (stage, key)
            WHERE checksum IN (SELECT unnest(?)) ORDER BY made_at DESC, key""",
            [parts],
        ).fetchall():
            yield self.manifest(*name[:2])

    def sources_of(self, manifest: Manifest) -> Iterator[Manifest]:
        names = self.catalog.execute(
            "SELECT stage, key FROM artifacts WHERE key IN (SELECT unnest(?)) ORDER BY key", [list(manifest.sources)]
        ).fetchall()
        yield from (self.manifest(*name) for name in names)

    def of(self, manifest: Manifest, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The kept rows of an artifact with one of these ids. Raises StoreError for a damaged part."""
        if "id" not in manifest.columns:
            return []
        parts = parts_with(self.catalog, self.files, ids)
        files = [self.store.root / seal.file for seal in manifest.parts if seal.checksum in parts]
        try:
            sql = f"SELECT * FROM {parquet(files)} WHERE id IN (SELECT unnest(?))"
            table: pa.Table = self.catalog.sql(sql, params=[list(ids)]).to_arrow_table() if files else pa.table({})
        except duckdb.Error as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(
                f"{manifest.reference} is damaged ({reason}); run its flow again, it is made anew"
            ) from error
        return [dict(row) for row in table.to_pylist()]

    def calls(self, keys: Sequence[str]) -> list[Call]:
        """Stored calls in the order of `keys`, without those that are gone."""
        names = ", ".join(Call._fields)
        rows = self.catalog.execute(
            f"SELECT {names} FROM calls WHERE key IN (SELECT unnest(?))", [[bytes.fromhex(key).hex() for key in keys]]
        ).fetchall()
        by_key = {row[0]: Call._make(row) for row in rows}
        return [call._replace(messages=orjson.loads(str(call.messages))) for key in keys if (call := by_key.get(key))]

    def drops(self, row_id: str) -> list[tuple[str, Dropped]]:
        rows = self.catalog.execute(
            "SELECT artifact, id, reason, detail FROM drops JOIN artifacts USING (artifact, stage) WHERE id = ? "
            "ORDER BY made_at",
            [row_id],
        ).fetchall()
        return [(artifact, Dropped(id=name, reason=reason, detail=detail)) for artifact, name, reason, detail in rows]


@contextmanager
def open_rows(store: Store) -> Iterator[RowLookup]:
    """The rows of a store; its index is brought up to date first. Raises as `open_catalog`."""
    folder = store.root / DERIVED / ROWS
    with open_catalog(store) as catalog:
        parts = parts_with_ids(catalog, store)
        if is_writable(store):
            with locked_catalog(store):
                index = index_rows(folder, parts)
            yield RowLookup(store, catalog, index)
        else:
            with TemporaryDirectory(prefix="synthmill-") as elsewhere:
                yield RowLookup(store, catalog, index_rows(folder, parts, Path(elsewhere)))


def lineage_of(store: Store, row_id: str) -> Lineage:
    """A row's lineage, from the newest artifact that has it; empty where no artifact does."""
    with open_rows(store) as rows:
        return Lineage(steps_to(rows, row_id), rows.drops(row_id))


def steps_to(rows: RowLookup, row_id: str) -> list[Step]:
    """The steps to a row, its inputs first."""
    candidates = (
        (manifest, name)
        for name in dict.fromkeys((row_id, artifact_id(row_id)))
        for manifest in rows.artifacts_with(name)
    )
    last, row_id = next(((source, name) for source, name in candidates if rows.of(source, [name])), (None, row_id))
    steps: list[Step] = []
    frontier, visited = {row_id}, set()
    queue = [last] if last else []
    while queue:
        manifest = queue.pop(0)
        if manifest.key in visited:
            continue
        visited.add(manifest.key)
        for row in rows.of(manifest, sorted(frontier)):
            keys = row.pop(CALLS, None) or []
            steps.append(Step(manifest, row, rows.calls(keys) if keys else []))
            if parent := row.get("parent_id"):
                frontier.add(parent)
        queue += rows.sources_of(manifest)
    return without_repeats(steps[::-1])


def without_repeats(steps: list[Step]) -> list[Step]:
    """Keep each call only in the first step that has it: stages without requests pass on the calls of their rows."""
    keys: set[str] = set()
    unique = []
    for step in steps:
        unique.append(step._replace(calls=[call for call in step.calls if call.key not in keys]))
        keys |= {call.key for call in step.calls}
    return unique


def artifact_id(row_id: str) -> str:
    """An exported row's id as the artifacts have it."""
    return next((row_id.removesuffix(end) for end in DERIVED_IDS if row_id.endswith(end)), row_id)
