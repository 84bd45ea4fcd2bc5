"""From a row back to its inputs: through every artifact on the way, with the calls it was made from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import orjson
import pyarrow as pa

from schemas.artifacts import Manifest
from schemas.errors import StoreError
from schemas.rows import Dropped
from storage.artifacts import CALLS, Store, read_manifest
from storage.catalog import DERIVED, ROWS, is_writable, locked_catalog, opened
from storage.row_index import index_rows, parts_with, parts_with_ids
from storage.sql import parquet

DERIVED_IDS = ("-chosen", "-rejected")
"""What formats that make two rows of one add to its id."""


class Call(NamedTuple):
    """What was asked and answered; messages: (role, content)."""

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


class Way(NamedTuple):
    """The steps to a row, its inputs first, and where it was dropped: (artifact, what and why)."""

    steps: list[Step]
    drops: list[tuple[str, Dropped]]


class Rows(NamedTuple):
    """Rows of a store by id: its catalog, and the files of the index from ids to parts."""

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
        """Stored calls by key, in this order; those that are gone are left out."""
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
        return [(artifact, Dropped(id=name, reason=why, detail=detail)) for artifact, name, why, detail in rows]


@contextmanager
def rows_of(store: Store) -> Iterator[Rows]:
    """The rows of a store; what is new is added to the index before. Raises as `opened`."""
    folder = store.root / DERIVED / ROWS
    with opened(store) as catalog:
        parts = parts_with_ids(catalog, store)
        if is_writable(store):
            with locked_catalog(store):
                index = index_rows(folder, parts)
            yield Rows(store, catalog, index)
        else:
            with TemporaryDirectory(prefix="synthmill-") as elsewhere:
                yield Rows(store, catalog, index_rows(folder, parts, Path(elsewhere)))


def way_of(store: Store, row_id: str) -> Way:
    """The way to a row; empty where no artifact has it. Of several artifacts the newest one's row is meant."""
    with rows_of(store) as rows:
        return Way(walk(rows, row_id), rows.drops(row_id))


def walk(rows: Rows, row_id: str) -> list[Step]:
    """The steps to a row, its inputs first."""
    candidates = (
        (manifest, name) for name in dict.fromkeys((row_id, plain_id(row_id))) for manifest in rows.artifacts_with(name)
    )
    last, row_id = next(((m, name) for m, name in candidates if rows.of(m, [name])), (None, row_id))
    steps: list[Step] = []
    frontier, seen = {row_id}, set()
    ahead = [last] if last else []
    while ahead:
        manifest = ahead.pop(0)
        if manifest.key in seen:
            continue
        seen.add(manifest.key)
        for row in rows.of(manifest, sorted(frontier)):
            keys = row.pop(CALLS, None) or []
            steps.append(Step(manifest, row, rows.calls(keys) if keys else []))
            if parent := row.get("parent_id"):
                frontier.add(parent)
        ahead += rows.sources_of(manifest)
    return without_repeats(steps[::-1])


def without_repeats(steps: list[Step]) -> list[Step]:
    """Stages that ask nothing pass the calls of their rows on: each is shown where it was made."""
    known: set[str] = set()
    first = []
    for step in steps:
        first.append(step._replace(calls=[call for call in step.calls if call.key not in known]))
        known |= {call.key for call in step.calls}
    return first


def plain_id(row_id: str) -> str:
    """The id in the artifacts of a row as it was exported."""
    return next((row_id.removesuffix(end) for end in DERIVED_IDS if row_id.endswith(end)), row_id)
