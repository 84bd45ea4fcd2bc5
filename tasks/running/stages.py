"""Stages over artifacts: reuse sealed parts, make the missing ones, write the manifest."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pyarrow as pa

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.schemas.errors import STOPPED, InputError, Stopped, StoreError
from synthmill.schemas.hashing import content_hash, file_checksum
from synthmill.schemas.progress import Progress
from synthmill.schemas.rows import Row
from synthmill.schemas.settings import FileSettings
from synthmill.storage.artifacts import (
    CALLS,
    Store,
    are_files_whole,
    read_dropped,
    read_parquet,
    rows_to_table,
    seal_part,
    sealed_artifact,
    sealed_part,
    write_manifest,
)
from synthmill.storage.files import locked, scratch_folder, sync
from synthmill.storage.plain_files.rows import INSTRUCTIONS, RowKind, read_chunks
from synthmill.tasks.frames import FileStage, FrameStage, StageContext
from synthmill.tasks.running.batching import say_what_is_in_batches
from synthmill.tasks.running.job import Job, Planned
from synthmill.tasks.running.same_columns import with_same_columns
from synthmill.tasks.running.whole import run_whole

OnProgress = Callable[[Progress], None]


class WorkerPool(Protocol):
    """Makes parts: in this process, or in Ray actors (tasks/running/parallel.py)."""

    def run(self, planned: Planned, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[PartSeal]:
        """Make every job's part; yields seals as they come. Raises EngineError, StoreError, Stopped; seals stay."""

    stop: threading.Event

    def make_room(self) -> None:
        """Free the workers' engines."""

    def map_unordered(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Call `work` with each job's arguments; results come in any order. Raises as run."""


def source_key(source: FileSettings, rows_per_part: int, kind: RowKind = INSTRUCTIONS) -> str:
    """The key of a source's artifact: the file's content and how it is read."""
    name = source.path.rstrip("/").rsplit("/", 1)[-1]  # rows say where they came from
    settings = source.model_dump(exclude={"path", "qrels", "license"})
    kind_key = [kind.key] if kind.key else []
    return content_hash([kind.stage, kind.version, kind.fingerprint(source), name, settings, rows_per_part, *kind_key])


def ingest(store: Store, source: FileSettings, rows_per_part: int, run: str, kind: RowKind = INSTRUCTIONS) -> Manifest:
    """Read a source into an artifact of its rows. Raises InputError when it cannot be read, or no row is usable."""
    key = source_key(source, rows_per_part, kind)
    if manifest := sealed_artifact(store, kind.stage, key, {}):
        return manifest
    seals = []
    for chunk in read_chunks(source, rows_per_part, kind):
        table = rows_to_table(kind.model, chunk.rows, [()] * len(chunk.rows)).drop_columns([CALLS])
        part_key = content_hash([kind.stage, kind.version, [row.model_dump() for row in chunk.rows + chunk.dropped]])
        seal = sealed_part(store, kind.stage, part_key)
        seals.append(seal or seal_part(store, kind.stage, part_key, table, chunk.dropped, ids_in=chunk.ids_in))
    manifest = Manifest(
        stage=kind.stage,
        key=key,
        identity={"stage": kind.stage, "version": kind.version, "source": source.model_dump()},
        columns=columns_of(table),
        parts=tuple(seals),
        run=run,
    )
    if manifest.rows == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
        first = next((row for seal in seals for row in read_dropped(store, seal)), None)
        example = f"; the first: {first.detail}" if first and first.detail else ""
        raise InputError(f"{source.path}: none of the {manifest.rows_in} rows can be used ({reasons}){example}")
    return write_manifest(store, manifest)


def rows_key(stage: str, rows: Sequence[Row]) -> str:
    """The key of an artifact of rows that come from settings."""
    return content_hash([stage, [row.id for row in rows]])


def ingest_rows(store: Store, stage: str, rows: Sequence[Row], run: str, facts: Mapping[str, Any]) -> Manifest:
    """Make the artifact of rows that come from settings, one part each, so that one more changes nothing about the
    others. facts: what the manifest says of them.
    """
    key = rows_key(stage, rows)
    if manifest := sealed_artifact(store, stage, key, {}):
        return manifest
    seals = []
    for row in rows:
        table = rows_to_table(type(row), [row], [()]).drop_columns([CALLS])
        part_key = content_hash([stage, row.id])
        seal = sealed_part(store, stage, part_key)
        seals.append(seal or seal_part(store, stage, part_key, table, (), ids_in=[row.id]))
    identity, columns = {"stage": stage, **facts}, columns_of(table)
    manifest = Manifest(stage=stage, key=key, identity=identity, columns=columns, parts=tuple(seals), run=run)
    return write_manifest(store, manifest)


def noted_rows(store: Store, instructions: Manifest) -> int:
    """How many rows carry the reader's note that it used only a part of them."""

    notes = (read_parquet(store.root / seal.file, ["note"])["note"] for seal in instructions.parts)
    return sum(note != "" for column in notes for note in column.to_pylist())


def run_stage(
    store: Store,
    planned: Planned,
    source: Manifest,
    pool: WorkerPool,
    run: str,
    on_progress: OnProgress = lambda _: None,
) -> Manifest:
    """Make the missing parts of a stage's artifact, and reuse those that are sealed and whole. Processes that need the
    same artifact take turns: the first makes it, the next ones find it sealed.
    """
    if manifest := planned.sealed(store, source):
        return manifest
    with locked(store.lock_path(planned.stage.name, planned.key), LockWait(planned.step, pool.stop)):
        return planned.sealed(store, source) or make_artifact(store, planned, source, pool, run, on_progress)


def make_artifact(
    store: Store, planned: Planned, source: Manifest, pool: WorkerPool, run: str, on_progress: OnProgress
) -> Manifest:
    """Make a stage's artifact; the caller holds its lock."""
    stage = planned.stage
    files: dict[str, str] = {}
    context = StageContext(store.root, pool.map_unordered, {})
    if isinstance(stage, FrameStage) and stage.whole and stage.embeds:
        pool.make_room()
    if isinstance(stage, FileStage):
        seals = [seal_files(store, planned, source)]
        files = build_files(store, planned, stage, source, on_progress, pool)
    elif isinstance(stage, FrameStage) and stage.whole:
        seals = run_whole(store, planned, stage, source, context)
    else:
        jobs = planned.jobs(source, planned.sources(store, source))
        with ThreadPoolExecutor(4) as threads:
            stored = list(threads.map(lambda job: sealed_part(store, stage.name, job.key), jobs))
        seals_by_key = {seal.key: seal for seal in stored if seal}
        missing = list({job.key: job for job in jobs if job.key not in seals_by_key}.values())
        if missing:
            say_what_is_in_batches(store, planned.roles)
            seals_by_key.update((seal.key, seal) for seal in pool.run(planned, missing, on_progress))
        seals = [seals_by_key[job.key] for job in jobs]
    if stage.infers_columns:
        seals = with_same_columns(store, stage.name, seals)
    return write_manifest(
        store,
        Manifest(
            stage=stage.name,
            key=planned.key,
            identity=planned.identity,
            sources=planned.sources(store, source),
            columns=next((columns_of(read_schema(store, seal)) for seal in seals), {}),
            parts=tuple(seals),
            files=files,
            notes=context.notes,
            run=run,
        ),
    )


class LockWait:
    """Called while another run holds the lock: says so once, and raises Stopped when this run is to stop."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        self.stop = stop
        self.notice = f"{name}: another run makes the same; waiting for it"

    def __call__(self) -> None:
        if self.stop.is_set():
            raise Stopped(STOPPED)
        if self.notice:
            print(self.notice, file=sys.stderr, flush=True)
            self.notice = ""


def seal_files(store: Store, planned: Planned, source: Manifest) -> PartSeal:
    """The only row of an artifact of files; it names their source."""
    key = content_hash([planned.identity, source.content])
    if seal := sealed_part(store, planned.stage.name, key):
        return seal
    row = pa.table({"id": [key], "made_from": [source.reference], "rows": [source.rows]})
    return seal_part(store, planned.stage.name, key, row, (), ids_in=[key])


def build_files(
    store: Store, planned: Planned, stage: FileStage, source: Manifest, on_progress: OnProgress, pool: WorkerPool
) -> dict[str, str]:
    """Let a stage write its files into a scratch folder, then rename that into place. Returns name -> checksum."""
    folder = store.root / "files" / stage.name / planned.key
    files: dict[str, str] = {}
    try:
        with scratch_folder(folder.parent, planned.key) as temporary:
            stage.build(store, source, temporary, lambda rows: on_progress(Progress(rows=rows)), pool.map_unordered)
            files = {path.name: file_checksum(path) for path in sorted(temporary.iterdir())}
            for name in files:
                sync(temporary / name)
            if not are_files_whole(folder, files):  # else another run has just made the same
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
                sync(folder.parent)
    except OSError as error:
        if not are_files_whole(folder, files):
            cause = error.strerror or error
            raise StoreError(f"cannot write {folder}: {cause}; free space, then run the same command again") from error
    return files


def read_schema(store: Store, seal: PartSeal) -> Any:
    import pyarrow.parquet as pq

    return pq.read_schema(store.root / seal.file)


def columns_of(table: pa.Table | pa.Schema) -> dict[str, str]:
    schema = table if isinstance(table, pa.Schema) else table.schema
    return {field.name: str(field.type) for field in schema}
