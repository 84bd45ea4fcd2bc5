"""Stages over artifacts: what is there already, what has to be made, and the manifest at the end."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Protocol

import pyarrow as pa

from schemas.applications import Application
from schemas.artifacts import Manifest, PartSeal
from schemas.errors import STOPPED, InputError, Stopped, StoreError
from schemas.hashing import content_hash, file_checksum
from schemas.progress import Progress
from schemas.settings import FileSettings
from storage.artifacts import (
    CALLS,
    Store,
    are_files_whole,
    check_conserved,
    read_artifact,
    read_dropped,
    rows_to_table,
    seal_part,
    sealed_artifact,
    sealed_part,
    table_content,
    write_manifest,
)
from storage.files import locked, scratch_folder, sync
from storage.plain_files.rows import INSTRUCTIONS, RowKind, fingerprint, read_chunks
from tasks.frames import Around, FileStage, FrameStage
from tasks.running.job import Job, Planned

APPLICATIONS = "applications"
OnProgress = Callable[[Progress], None]


class WorkerPool(Protocol):
    """Where parts are made: this process, or Ray actors (tasks/running/parallel.py)."""

    def run(self, planned: Planned, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[PartSeal]:
        """Make every job's part; yields seals as they come. Raises EngineError, StoreError, Stopped; seals stay."""

    stop: threading.Event

    def make_room(self) -> None:
        """Free what the workers' engines hold."""

    def spread(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Call `work` with each job's arguments; results come in any order. Raises as run."""


def source_key(source: FileSettings, rows_per_part: int, kind: RowKind = INSTRUCTIONS) -> str:
    """The key of a source's artifact: the file's content and how it is read."""
    name = source.path.rstrip("/").rsplit("/", 1)[-1]  # rows say where they came from
    settings = source.model_dump(exclude={"path", "qrels", "license"})
    others = [kind.key] if kind.key else []
    return content_hash([kind.stage, kind.version, fingerprint(source), name, settings, rows_per_part, *others])


def ingest(store: Store, source: FileSettings, rows_per_part: int, run: str, kind: RowKind = INSTRUCTIONS) -> Manifest:
    """Read a source into an artifact of its rows; raises InputError when it cannot be read or has no good row."""
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
        said = f"; the first: {first.detail}" if first and first.detail else ""
        raise InputError(f"{source.path}: none of the {manifest.rows_in} rows can be used ({reasons}){said}")
    return write_manifest(store, manifest)


def ingest_applications(store: Store, applications: Sequence[Application], key: str, run: str) -> Manifest:
    """Make the artifact of applications, one part each, so that one more changes nothing about the others."""
    if manifest := sealed_artifact(store, APPLICATIONS, key, {}):
        return manifest
    seals = []
    for application in applications:
        table = rows_to_table(Application, [application], [()]).drop_columns([CALLS])
        part_key = content_hash([APPLICATIONS, application.id])
        seal = sealed_part(store, APPLICATIONS, part_key)
        seals.append(seal or seal_part(store, APPLICATIONS, part_key, table, (), ids_in=[application.id]))
    identity = {"stage": APPLICATIONS, "applications": {one.name: one.id for one in applications}}
    return write_manifest(
        store,
        Manifest(
            stage=APPLICATIONS, key=key, identity=identity, columns=columns_of(table), parts=tuple(seals), run=run
        ),
    )


def noted_rows(store: Store, instructions: Manifest) -> int:
    """How many rows the reader did not use whole."""
    import pyarrow.parquet as pq

    notes = (pq.read_table(store.root / seal.file, columns=["note"])["note"] for seal in instructions.parts)
    return sum(note != "" for column in notes for note in column.to_pylist())


def run_stage(
    store: Store,
    planned: Planned,
    source: Manifest,
    pool: WorkerPool,
    run: str,
    on_progress: OnProgress = lambda _: None,
) -> Manifest:
    """Make what is missing of a stage's artifact; parts that are sealed and whole are reused. One process makes it,
    others wait and find it made.
    """
    if manifest := planned.sealed(store, source):
        return manifest
    with locked(store.lock_path(planned.stage.name, planned.key), Waiting(planned.step, pool.stop)):
        return planned.sealed(store, source) or make(store, planned, source, pool, run, on_progress)


def make(
    store: Store, planned: Planned, source: Manifest, pool: WorkerPool, run: str, on_progress: OnProgress
) -> Manifest:
    """Make a stage's artifact; the caller holds its lock."""
    stage = planned.stage
    files: dict[str, str] = {}
    around = Around(store.root, pool.spread, {})
    if isinstance(stage, FrameStage) and stage.whole and stage.embeds:
        pool.make_room()
    if isinstance(stage, FileStage):
        seals = [seal_files(store, planned, source)]
        files = build_files(store, planned, stage, source, on_progress, pool)
    elif isinstance(stage, FrameStage) and stage.whole:
        seals = run_whole(store, planned, stage, source, around)
    else:
        jobs = planned.jobs(source)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda job: sealed_part(store, stage.name, job.key), jobs))
        done = {seal.key: seal for seal in found if seal}
        todo = list({job.key: job for job in jobs if job.key not in done}.values())
        if todo:
            done.update((seal.key, seal) for seal in pool.run(planned, todo, on_progress))
        seals = [done[job.key] for job in jobs]
    return write_manifest(
        store,
        Manifest(
            stage=stage.name,
            key=planned.key,
            identity=planned.identity,
            sources={source.key: source.content},
            columns=next((columns_of(read_schema(store, seal)) for seal in seals), {}),
            parts=tuple(seals),
            files=files,
            notes=around.notes,
            run=run,
        ),
    )


class Waiting:
    """What is said, once, while another run makes the same; a stop ends the wait."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        self.stop = stop
        self.news = f"{name}: another run makes the same; waiting for it"

    def __call__(self) -> None:
        if self.stop.is_set():
            raise Stopped(STOPPED)
        if self.news:
            print(self.news, file=sys.stderr, flush=True)
            self.news = ""


def seal_files(store: Store, planned: Planned, source: Manifest) -> PartSeal:
    """The one row of an artifact of files: what they were made from."""
    key = content_hash([planned.identity, source.content])
    if seal := sealed_part(store, planned.stage.name, key):
        return seal
    row = pa.table({"id": [key], "made_from": [source.reference], "rows": [source.rows]})
    return seal_part(store, planned.stage.name, key, row, (), ids_in=[key])


def build_files(
    store: Store, planned: Planned, stage: FileStage, source: Manifest, on_progress: OnProgress, pool: WorkerPool
) -> dict[str, str]:
    """Let a stage write its files beside where they belong, then move the whole folder there; name -> checksum."""
    folder = store.root / "files" / stage.name / planned.key
    files: dict[str, str] = {}
    try:
        with scratch_folder(folder.parent, planned.key) as temporary:
            stage.build(store, source, temporary, lambda rows: on_progress(Progress(rows=rows)), pool.spread)
            files = {path.name: file_checksum(path) for path in sorted(temporary.iterdir())}
            for name in files:
                sync(temporary / name)
            if not are_files_whole(folder, files):  # else another run has just made the same
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
                sync(folder.parent)
    except OSError as error:
        if not are_files_whole(folder, files):
            said = f"{error.strerror or error}; free space, then run the same command again"
            raise StoreError(f"cannot write {folder}: {said}") from error
    return files


def run_whole(store: Store, planned: Planned, stage: FrameStage, source: Manifest, around: Around) -> list[PartSeal]:
    """Run a stage that needs every row at once, in this process; what it makes may be several parts for the next."""
    started = time.monotonic()
    table = read_artifact(store, source)
    made, dropped = stage.run_on(table, around)
    ids_in = table["id"].to_pylist()
    check_conserved(stage.name, ids_in, made, dropped)
    left, gone = set(ids_in), {row.id for row in dropped}
    begins = stage.parts_begin(made)
    seals = []
    for start, until in zip(begins, [*begins[1:], made.num_rows], strict=True):
        rows = made.take(pa.array(range(start, until), pa.int64()))  # a copy: a slice would hash its neighbours, too
        named = [rows[column].to_pylist() for column in ("id", "parent_id") if column in rows.column_names]
        mine = left.intersection(chain.from_iterable(named)) | (set() if start else gone)
        left -= mine
        drops = [] if start else dropped
        told = [row.model_dump() for row in drops]
        key = content_hash([planned.identity, table_content(rows), sorted(mine), told])
        seal = sealed_part(store, stage.name, key)
        seconds = 0.0 if start else time.monotonic() - started
        seals.append(seal or seal_part(store, stage.name, key, rows, drops, ids_in=sorted(mine), seconds=seconds))
    return seals


def read_schema(store: Store, seal: PartSeal) -> Any:
    import pyarrow.parquet as pq

    return pq.read_schema(store.root / seal.file)


def columns_of(table: pa.Table | pa.Schema) -> dict[str, str]:
    schema = table if isinstance(table, pa.Schema) else table.schema
    return {field.name: str(field.type) for field in schema}
