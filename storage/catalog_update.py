"""Update a catalog's tables: insert what is new in a store, delete what is gone or damaged.

The catalog remembers, in its schema `internal`, which manifests, parts and run records it has read, each with a stamp
(time, size, inode): a file with the same stamp is not read again.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import orjson

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import StoreError
from synthmill.schemas.usage import COUNTERS
from synthmill.storage.artifacts import Store, is_whole, read_manifest
from synthmill.storage.runs import read_run
from synthmill.storage.sql import insert

VERSION = 2  # of the tables; when it is raised, every catalog is made from nothing once
COUNTED = ", ".join(f"{name} BIGINT" for name in COUNTERS if name != "latency_s")
MANIFESTS_PER_BATCH = 2_000
TABLES = (
    f"CREATE TABLE store AS SELECT ?::VARCHAR AS root, {VERSION} AS version",
    """CREATE TABLE runs (run VARCHAR, flow VARCHAR, status VARCHAR, started_at VARCHAR, ended_at VARCHAR,
        dataset VARCHAR, error VARCHAR, settings JSON, calls BIGINT, tokens BIGINT, money DOUBLE)""",
    """CREATE TABLE artifacts (artifact VARCHAR, stage VARCHAR, key VARCHAR, rows_in BIGINT, rows BIGINT,
        dropped BIGINT, made_at VARCHAR, run VARCHAR, identity JSON)""",
    f"""CREATE TABLE spend (run VARCHAR, stage VARCHAR, step VARCHAR, role VARCHAR, engine VARCHAR, {COUNTED},
        mean_latency_s DOUBLE)""",
    "CREATE SCHEMA internal",
    "CREATE TABLE internal.folders (folder VARCHAR, modified BIGINT)",
    "CREATE TABLE internal.records (file VARCHAR, stamp VARCHAR)",
    "CREATE TABLE internal.manifests (stage VARCHAR, key VARCHAR, stamp VARCHAR)",
    "CREATE TABLE internal.sources (stage VARCHAR, key VARCHAR, source VARCHAR)",
    """CREATE TABLE internal.parts (stage VARCHAR, key VARCHAR, position INTEGER, file VARCHAR, stamp VARCHAR,
        checksum VARCHAR, dropped_file VARCHAR, dropped_checksum VARCHAR, has_id BOOLEAN)""",
    "CREATE TABLE internal.views (name VARCHAR, stage VARCHAR, key VARCHAR, stamp VARCHAR)",
    """CREATE VIEW lineage AS SELECT artifacts.artifact, source.artifact AS made_from FROM internal.sources
        JOIN artifacts USING (stage, key) JOIN artifacts AS source ON source.key = sources.source""",
)
Stamps = dict[str, str]
Name = tuple[str, str]
"""An artifact's stage and key."""


def create_tables(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    create_store, *statements = TABLES
    database.execute(create_store, [str(store.root)])
    for statement in statements:
        database.execute(statement)


def update_tables(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    folders = folders_of(store)  # before listing files: later changes make the catalog stale
    database.execute("BEGIN")
    update_runs(database, store)
    update_artifacts(database, store)
    remember_folders(database, folders)
    database.execute("COMMIT")


def folders_of(store: Store) -> dict[str, int]:
    """The folders whose files the tables hold -> when each was changed, in ns."""
    artifacts = store.root / "artifacts"
    with os.scandir(artifacts) as entries:
        stages = {f"artifacts/{entry.name}": entry.stat().st_mtime_ns for entry in entries if entry.is_dir()}
    return {"runs": modified_ns(store.runs), "artifacts": modified_ns(artifacts), **stages}


def modified_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def remember_folders(database: duckdb.DuckDBPyConnection, folders: dict[str, int]) -> None:
    """Store when folders were changed: the catalog is stale once one of them changes again."""
    database.execute("DELETE FROM internal.folders WHERE (folder = 'calls') = ?", ["calls" in folders])
    insert(
        database,
        "internal.folders",
        [{"folder": name, "modified": modified_at} for name, modified_at in folders.items()],
    )


def delete_rows(database: duckdb.DuckDBPyConnection, tables: Iterable[str], artifacts: Iterable[Name]) -> None:
    """Delete the rows of artifacts from tables."""
    names = [f"{stage}/{key}" for stage, key in artifacts]
    for table in tables if names else ():
        database.execute(f"DELETE FROM {table} WHERE stage || '/' || key IN (SELECT unnest(?))", [names])


def stamps_in(root: Path, folder: str, ending: str) -> Stamps:
    """The files below a folder whose names have this ending: path, relative to the root -> stamp."""
    stamps: Stamps = {}
    start = len(str(root).rstrip("/")) + 1
    folders = [str(root / folder)]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.name.endswith(ending):
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        status = entry.stat()
                        stamps[entry.path[start:]] = f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
    return stamps


def update_runs(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    stamps = {file: stamp for file, stamp in stamps_in(store.root, "runs", ".json").items() if file.count("/") == 1}
    recorded = dict(database.execute("SELECT file, stamp FROM internal.records").fetchall())
    new = [file for file, stamp in stamps.items() if recorded.get(file) != stamp]
    outgoing = [file for file, stamp in recorded.items() if stamps.get(file) != stamp]
    database.execute("DELETE FROM internal.records WHERE file IN (SELECT unnest(?))", [outgoing])
    database.execute("DELETE FROM runs WHERE run IN (SELECT unnest(?))", [[Path(file).stem for file in outgoing]])
    insert(database, "internal.records", [{"file": file, "stamp": stamps[file]} for file in new])
    insert(database, "runs", [row for file in sorted(new) for row in run_rows(store.root / file)])


def run_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A run as a row of the table `runs`; no row for a damaged record."""
    try:
        run = read_run(path)
    except (StoreError, ValueError):
        return
    facts = {fact: getattr(run, fact) for fact in ("flow", "status", "started_at", "ended_at", "dataset", "error")}
    calls, tokens = (sum(stage.total(counter) for stage in run.stages) for counter in ("sent", "completion_tokens"))
    settings = orjson.dumps(run.settings).decode()
    money = sum(stage.money for stage in run.stages)
    yield {"run": run.id, **facts, "settings": settings, "calls": calls, "tokens": tokens, "money": money}


class PartFiles(NamedTuple):
    """The part files that exist, with their stamps; files with a changed stamp must match their checksum."""

    store: Store
    stamps: Stamps
    changed: set[str]

    def has_all(self, manifest: Manifest) -> bool:
        return all(
            seal.file in self.stamps and (seal.file not in self.changed or is_whole(self.store, seal))
            for seal in manifest.parts
        )


def update_artifacts(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Read the manifests that are new or changed, or whose parts are; delete the rows of those that are gone."""
    files = stamps_in(store.root, "artifacts", ".json").items()
    names = {tuple(file.removesuffix(".json").split("/")[1:]): stamp for file, stamp in files}
    manifests: dict[Name, str] = {(name[0], name[1]): stamp for name, stamp in names.items() if len(name) == 2}
    parts = stamps_in(store.root, "parts", ".parquet")
    rows = database.execute("SELECT stage, key, stamp FROM internal.manifests").fetchall()
    recorded = {(stage, key): stamp for stage, key, stamp in rows}
    changed = changed_parts(database, parts)
    affected = {(stage, key) for stage, key, _ in changed}
    new = [name for name, stamp in manifests.items() if recorded.get(name) != stamp or name in affected]
    outgoing = {*new, *(recorded.keys() - manifests.keys())} & recorded.keys()
    delete_rows(database, ("artifacts", "internal.manifests", "internal.sources", "internal.parts"), outgoing)
    present = PartFiles(store, parts, {file for _, _, file in changed})
    for start in range(0, len(new), MANIFESTS_PER_BATCH):
        batch = new[start : start + MANIFESTS_PER_BATCH]
        insert_artifacts(database, list(read_manifests(store, batch)), present)
        stamps = [{"stage": stage, "key": key, "stamp": manifests[stage, key]} for stage, key in batch]
        insert(database, "internal.manifests", stamps)


def changed_parts(database: duckdb.DuckDBPyConnection, parts: Stamps) -> list[tuple[str, str, str]]:
    """(stage, key, file) of parts that are gone, new or written again since their artifact was read."""
    return database.execute(
        """SELECT stage, key, file FROM internal.parts
        LEFT JOIN (SELECT unnest(?) AS file, unnest(?) AS stamp) AS present
        USING (file) WHERE present.stamp IS DISTINCT FROM parts.stamp""",
        [list(parts), list(parts.values())],
    ).fetchall()


def read_manifests(store: Store, names: Iterable[Name]) -> Iterator[Manifest]:
    """The manifests that can be read and lie where their stage and key say."""
    for stage, key in names:
        with suppress(StoreError):
            manifest = read_manifest(store.manifest_path(stage, key))
            if (manifest.stage, manifest.key) == (stage, key):
                yield manifest


def insert_artifacts(database: duckdb.DuckDBPyConnection, manifests: Sequence[Manifest], present: PartFiles) -> None:
    """Insert the artifacts whose parts all exist; of every manifest, insert its sources and parts."""
    artifacts, sources, parts = [], [], []
    for manifest in manifests:
        name = {"stage": manifest.stage, "key": manifest.key}
        if present.has_all(manifest):
            facts = {fact: getattr(manifest, fact) for fact in ("rows_in", "rows", "made_at", "run")}
            dropped, identity = sum(manifest.dropped.values()), orjson.dumps(manifest.identity).decode()
            row = {**name, "artifact": manifest.reference, "dropped": dropped, "identity": identity, **facts}
            artifacts.append(row)
        sources += [{**name, "source": source} for source in manifest.sources]
        for position, seal in enumerate(manifest.parts):
            facts = {fact: getattr(seal, fact) for fact in ("file", "checksum", "dropped_file", "dropped_checksum")}
            has_id = "id" in manifest.columns
            stamp = present.stamps.get(seal.file)
            parts.append({**name, "position": position, "stamp": stamp, "has_id": has_id, **facts})
    insert(database, "artifacts", artifacts)
    insert(database, "internal.sources", sources)
    insert(database, "internal.parts", parts)
