"""Stages that need every row at once, in this process. What does not fit beside that goes through files."""

import mmap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.schemas.errors import StoreError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, check_conserved, read_artifact, seal_part, sealed_part, table_content
from synthmill.storage.files import scratch_folder
from synthmill.storage.published.row_streams import OLDEST
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.frames import FrameStage, MarkingStage, StageContext
from synthmill.tasks.running.carrying import carry
from synthmill.tasks.running.job import Planned

LARGE = 64 << 20
"""Bytes of a part from which its columns go through files, one at a time."""


class Scratch:
    """Tables in files of a folder, which are mapped into memory, and leave it again soon after they were read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maps: dict[str, mmap.mmap] = {}

    def put(self, name: str, tables: Iterable[pa.Table]) -> pa.Table:
        """The rows of tables of the same columns, at least one. Raises StoreError where the store cannot be written."""
        path = self.folder / f"{name}.arrow"
        tables = iter(tables)
        first = next(tables)
        try:
            path.unlink(missing_ok=True)  # the part before may still be mapped
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as stream:
                for table in chain([first], tables):
                    stream.write_table(table)
            with path.open("rb") as file:
                self.maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}; free space, then run the same command again") from error
        return pa.ipc.open_stream(pa.py_buffer(self.maps[name])).read_all()

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """Within it, what was read leaves memory every tenth of a second; the kernel would wait until none is free."""
        done = threading.Event()

        def release() -> None:
            while not done.wait(0.1):
                for pages in list(self.maps.values()):
                    pages.madvise(mmap.MADV_DONTNEED)

        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class Output(NamedTuple):
    """What a stage made of all rows."""

    ids_in: list[str]
    rows: pa.Table
    dropped: list[Dropped]


def run_whole(
    store: Store, planned: Planned, stage: FrameStage, source: Manifest, context: StageContext
) -> list[PartSeal]:
    """Run a stage that needs every row at once. Its output may be several parts; the first of them holds the drops."""
    started = time.monotonic()
    with scratch_folder(store.root, "whole") as folder, (scratch := Scratch(folder)).releasing():
        if isinstance(stage, MarkingStage):
            output = mark_rows(store, stage, source, context, scratch)
        else:
            output = run_on_rows(store, planned, stage, source, context)
        check_conserved(stage.name, output.ids_in, output.rows, output.dropped)
        return seal_parts(store, planned, stage, output, scratch, started)


def run_on_rows(store: Store, planned: Planned, stage: FrameStage, source: Manifest, context: StageContext) -> Output:
    table = read_artifact(store, source)
    output, dropped = stage.run_on(table, context)
    return Output(table["id"].to_pylist(), carry(table, output, planned.carries), dropped)


def mark_rows(store: Store, stage: MarkingStage, source: Manifest, context: StageContext, scratch: Scratch) -> Output:
    """The marked rows in a file; they hold all columns that go on with them."""
    rows = stream_of(store, source)
    stage.check_needs(rows.columns)
    marks, dropped = stage.mark(stage.narrow(rows), context)
    places, marks = marks["place"].to_numpy(), marks.drop("place")

    def batches() -> Iterator[pl.DataFrame]:
        start = first = 0
        for batch in rows.batches():
            last = int(np.searchsorted(places, start + batch.height))
            yield stage.marked(batch[places[first:last] - start], marks[first:last])
            start, first = start + batch.height, last

    tables = (batch.to_arrow(compat_level=OLDEST) for batch in batches())
    ids_in = [row for batch in rows.batches(["id"]) for row in batch["id"].to_list()]
    return Output(ids_in, scratch.put("rows", tables), dropped)


def seal_parts(
    store: Store, planned: Planned, stage: FrameStage, output: Output, scratch: Scratch, started: float
) -> list[PartSeal]:
    ids_in, table, dropped = output
    unclaimed_ids, dropped_ids = set(ids_in), {row.id for row in dropped}
    starts = stage.parts_begin(table)
    seals = []
    for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
        rows = copied(table.slice(start, end - start), scratch)
        row_ids = [rows[column].to_pylist() for column in ("id", "parent_id") if column in rows.column_names]
        part_ids = unclaimed_ids.intersection(chain.from_iterable(row_ids)) | (set() if start else dropped_ids)
        unclaimed_ids -= part_ids
        drops = [] if start else dropped
        ids = sorted(part_ids)
        key = content_hash([planned.identity, table_content(rows), ids, [row.model_dump() for row in drops]])
        seal = sealed_part(store, stage.name, key)
        seconds = 0.0 if start else time.monotonic() - started
        seals.append(seal or seal_part(store, stage.name, key, rows, drops, ids_in=ids, seconds=seconds))
    return seals


def copied(rows: pa.Table, scratch: Scratch) -> pa.Table:
    """A slice's rows by themselves: the slice would hash its neighbours, too."""
    places = pa.array(np.arange(rows.num_rows))
    if rows.nbytes < LARGE:
        return rows.take(places)
    columns = [scratch.put(str(number), [rows.select([number]).take(places)]) for number in range(rows.num_columns)]
    return pa.table([column.column(0) for column in columns], schema=rows.schema)
