"""The catalog: `catalog.duckdb`, every artifact of a store as one database, for any DuckDB client.

It is derived: rebuilt from manifests, run records and the call store beside a lock, then swapped in with a rename.
Nothing waits for it and nothing is lost with it. Views: one per artifact (stage_1a2b3c4d) and one per stage for its
latest artifact. Tables: runs, artifacts, lineage, drops, calls, spend, store.
"""

import fcntl
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.artifacts import Manifest
from schemas.errors import InputError, StoreError
from storage.artifacts import Store
from storage.files import write_atomically
from storage.runs import runs
from storage.segments import HEAD, Segment, seal_abandoned, sealed_segments, segment_files, spent_in

RESERVED = {"runs", "artifacts", "lineage", "drops", "calls", "spend", "store"}
CALL_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("engine", pa.string()),
        ("role", pa.string()),
        ("stage", pa.string()),
        ("run", pa.string()),
        ("sample", pa.int64()),
        ("messages", pa.string()),
        ("sampling", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latency_s", pa.float64()),
        ("at", pa.float64()),
    ]
)
COPIES = "parquet"
CALLS_PER_BATCH = 20_000


def rebuild(store: Store) -> Path:
    """Make the catalog anew and swap it in; returns its path. Safe while runs write and readers read. Raises StoreError
    when it cannot be made.
    """
    try:
        with (store.root / ".catalog.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            seal_abandoned(store.calls)
            try:
                write_atomically(store.catalog, lambda path: fill(path, store, copy_calls(store.calls)))
            except duckdb.Error:  # a damaged copy of calls, perhaps: copies are made again from the segments
                shutil.rmtree(store.calls / COPIES, ignore_errors=True)
                write_atomically(store.catalog, lambda path: fill(path, store, copy_calls(store.calls)))
    except (duckdb.Error, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise StoreError(
            f"cannot make {store.catalog}: {said}; run the same command again to make what is damaged anew"
        ) from error
    return store.catalog


def fill(path: Path, store: Store, copies: list[Path]) -> None:
    database = duckdb.connect(str(path))
    try:
        manifests = [m for m in store.manifests() if all(file.exists() for file in artifact_files(store, m))]
        latest = {manifest.stage: manifest for manifest in manifests}
        for manifest in manifests:
            names = [manifest.reference] + [manifest.stage] * (
                latest[manifest.stage] is manifest and manifest.stage not in RESERVED
            )
            for name in names:
                database.execute(
                    f"CREATE OR REPLACE VIEW {quoted(name)} AS SELECT * FROM {parquet(artifact_files(store, manifest))}"
                )
        insert(
            database,
            "artifacts",
            "artifact VARCHAR, stage VARCHAR, key VARCHAR, rows_in BIGINT, rows BIGINT, made_at VARCHAR, run "
            "VARCHAR, identity JSON",
            (
                (m.reference, m.stage, m.key, m.rows_in, m.rows, m.made_at, m.run, orjson.dumps(m.identity).decode())
                for m in manifests
            ),
        )
        insert(
            database,
            "lineage",
            "artifact VARCHAR, made_from VARCHAR",
            (
                (m.reference, by_key)
                for m in manifests
                for key in m.sources
                for by_key in [o.reference for o in manifests if o.key == key]
            ),
        )
        insert(
            database,
            "runs",
            "run VARCHAR, flow VARCHAR, status VARCHAR, started_at VARCHAR, ended_at VARCHAR, dataset VARCHAR, "
            "error VARCHAR, settings JSON",
            (
                (
                    r.id,
                    r.flow,
                    r.status,
                    r.started_at,
                    r.ended_at,
                    r.dataset,
                    r.error,
                    orjson.dumps(r.settings).decode(),
                )
                for r in runs(store)
            ),
        )
        drops = [
            f"SELECT '{m.reference}' AS artifact, '{m.stage}' AS stage, id, reason, detail FROM {parquet(files)}"
            for m in manifests
            if (files := [file for p in m.parts if p.dropped_file and (file := store.root / p.dropped_file).exists()])
        ]
        nothing = "SELECT '' AS artifact, '' AS stage, '' AS id, '' AS reason, '' AS detail WHERE false"
        database.execute(f"CREATE VIEW drops AS {' UNION ALL '.join(drops) or nothing}")
        database.execute(f"CREATE VIEW calls AS SELECT * FROM {parquet(copies)}")
        insert(
            database,
            "spend",
            "run VARCHAR, stage VARCHAR, step VARCHAR, role VARCHAR, engine VARCHAR, calls BIGINT, "
            "prompt_tokens BIGINT, completion_tokens BIGINT, mean_latency_s DOUBLE",
            ((*who, *numbers[:3], numbers[3] / numbers[0]) for who, numbers in sorted(spent_in(store.calls).items())),
        )
        insert(database, "store", "root VARCHAR", [(str(store.root),)])
    finally:
        database.close()


def query(store: Store, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one query on the catalog, read-only; (columns, rows). Raises InputError for bad SQL and where there is no
    store, StoreError when no catalog can be made.
    """
    if not (store.root / "artifacts").is_dir():
        raise InputError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    if is_stale(store):
        rebuild(store)
    try:
        with duckdb.connect(str(store.catalog), read_only=True) as database:
            relation = database.sql(sql)
            return (relation.columns, relation.fetchall()) if relation is not None else ([], [])
    except (duckdb.Error, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).split())[:400]
        raise InputError(f"{said}; `synthmill ls` shows what there is") from error


def is_stale(store: Store) -> bool:
    """Whether there is no catalog, a damaged one, one of another place (views hold absolute paths), or an old one."""
    newest = max((path.stat().st_mtime for path in (store.runs, *(store.root / "artifacts").iterdir())), default=0.0)
    if not store.catalog.exists() or store.catalog.stat().st_mtime < newest:
        return True
    try:
        with duckdb.connect(str(store.catalog), read_only=True) as database:
            return database.sql("SELECT root FROM store").fetchall() != [(str(store.root),)]
    except duckdb.Error:
        return True


def artifact_files(store: Store, manifest: Manifest) -> list[Path]:
    return [store.root / part.file for part in manifest.parts]


def parquet(files: Iterable[Path]) -> str:
    """A DuckDB table function over these files; paths may hold quotes."""
    listed = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    return f"read_parquet([{listed}])"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def insert(database: "duckdb.DuckDBPyConnection", table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    database.execute(f"CREATE TABLE {table} ({columns})")
    if listed := list(rows):
        database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(listed[0]))})", listed)


def copy_calls(folder: Path) -> list[Path]:
    """Parquet copies of the sealed segments, made once each; an empty one stands in when there is none."""
    copies = []
    sealed = sealed_segments(folder)
    for path in segment_files(folder):
        copy = folder / COPIES / f"{path.stem}.parquet"
        if path.name in sealed:
            if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
                write_atomically(copy, lambda temporary, path=path: write_copy(Segment(path), temporary))  # type: ignore[misc]
            copies.append(copy)
    empty = folder / COPIES / "empty.parquet"
    if not empty.exists():
        write_atomically(empty, lambda temporary: pq.write_table(CALL_COLUMNS.empty_table(), temporary))
    return copies or [empty]


def write_copy(segment: Segment, path: Path) -> None:
    """One segment as Parquet: an answer a row, with what was asked."""
    asked: dict[str, tuple[str, str]] = {}
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, CALL_COLUMNS, compression="zstd") as writer:
        for kind, key, _, data in segment.lines():
            record = orjson.loads(data[HEAD:])
            if kind == b"Q":
                asked[key.hex()] = (
                    orjson.dumps(record["messages"]).decode(),
                    orjson.dumps(record["sampling"]).decode(),
                )
                continue
            if kind != b"A":
                continue
            messages, sampling = asked.get(record["ask"], ("[]", "{}"))
            rows.append({**record, "key": key.hex(), "messages": messages, "sampling": sampling})
            if len(rows) == CALLS_PER_BATCH:
                writer.write_table(pa.Table.from_pylist(rows, CALL_COLUMNS))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, CALL_COLUMNS))
