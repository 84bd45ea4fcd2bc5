"""A worker: makes and seals parts of a stage, several at once.

It is the same object in this process and inside a Ray actor. Engines stay loaded until a stage with other models
comes; they are closed before its engines open, so that two large models never share one GPU by accident.
"""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from synthmill.schemas.artifacts import Loss, PartSeal
from synthmill.schemas.budget import BudgetSettings
from synthmill.schemas.errors import EngineLearned, InputError, Stopped, StoreError
from synthmill.schemas.progress import Progress
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store, losses_of, read_part, seal_part, sealed_part, with_calls
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.batched import Batched
from synthmill.tasks.engines.engine import Engine, make_engine
from synthmill.tasks.engines.lessons import note_lessons
from synthmill.tasks.engines.pace import share_pace
from synthmill.tasks.engines.waits import waiting_at
from synthmill.tasks.frames import FrameStage, StageContext, run_locally
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.batching import batched_engine, standings
from synthmill.tasks.running.budget import Gate, Lease
from synthmill.tasks.running.carrying import carry
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.running.flights import PartResult
from synthmill.tasks.running.job import Job, Planned, Stage

SILENT_S = 60.0  # an engine that has answered nothing for so long, or for its time-out if less, is reported
GC_THRESHOLD = (50_000, 20, 100)
FILE_THREADS = 2  # that read and seal parts; more would wait for the interpreter, and for each other's files in caches
Result = TypeVar("Result")


class Worker:
    """Makes parts, one stage after another, with its share of each engine's concurrency."""

    def __init__(
        self, store: Store, run: str, budget: BudgetSettings | None = None, lease: Lease | None = None
    ) -> None:
        """lease: asks the budget's coordinator for requests; None where there is no limit."""
        self.store = store
        self.run = run
        self._budget, self._lease = budget, lease
        self._gate: Gate | None = None
        self._planned: Planned | None = None
        self._driver: Driver | None = None
        self._calls: CallStore | None = None
        self._engines: dict[str, Engine] = {}
        self._opening = asyncio.Lock()
        self._frame_rows = 0
        self._parts_read = 0  # those that are being read now
        self._patience_s = SILENT_S
        self._broken = False
        self._stopped = ""
        self._threads = ThreadPoolExecutor(FILE_THREADS, "synthmill-parts")
        # Rows and answers are many, live long and hold no cycles; the search for cycles would take a sixth of the time.
        self._gc_threshold = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)

    async def work(self, planned: Planned, workers: int, job: Job, retry: bool = False) -> PartSeal:
        """Make and seal one part, or return its seal if it has one.

        workers: how many share each engine's concurrency. retry: another worker died on this part; resume from the
        answers that it stored. Raises EngineError, StoreError, Stopped.
        """
        async with self._opening:
            if not is_same_step(self._planned, planned):
                await self._take_up(planned, workers)
        try:
            return await self._make(planned, job, retry)
        except Exception as error:
            if isinstance(error, EngineLearned):
                await asyncio.to_thread(note_lessons, self.store, list(self._engines.values()))
            self._planned = None  # the next attempt starts with a fresh driver and fresh engines
            self._broken = True
            raise

    async def _make(self, planned: Planned, job: Job, retry: bool) -> PartSeal:
        stage = planned.stage
        if self._stopped:  # while an engine was opening
            raise Stopped(self._stopped)
        if retry and self._calls:
            self._calls.refresh()
        started = time.monotonic()
        self._parts_read += 1
        try:
            part = await self._in_thread(read_job, self.store, stage, job)
        finally:
            self._parts_read -= 1
        if isinstance(part, PartSeal):
            return part
        table, lost_before = part

        def seal(output: pa.Table, dropped: Sequence[Dropped], result: PartResult) -> PartSeal:
            return seal_part(
                self.store,
                stage.name,
                job.key,
                carry(table, output, planned.carries),
                dropped,
                ids_in=table["id"].to_pylist(),
                lost=result.lost,
                spent={role: counted.numbers() for role, counted in result.spent.items()},
                seconds=time.monotonic() - started,
            )

        if isinstance(stage, FrameStage):
            context = StageContext(self.store.root, run_locally, {})
            output, dropped = await asyncio.to_thread(stage.run_on, table, context)
            self._frame_rows += table.num_rows
            return await self._in_thread(seal, output, dropped, PartResult([], [], [], {}))
        assert self._driver and self._calls
        rows, unreadable = stage.read(table)
        result = await self._driver.run(rows, lost_before)
        self._calls.flush()
        answers = self._calls.duplicate_descriptor()

        def seal_rows() -> PartSeal:
            make_durable(answers, self.store.calls)
            return seal(with_calls(stage.to_table(result.rows), result.calls), [*unreadable, *result.dropped], result)

        return await self._in_thread(seal_rows)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def make_room(self) -> None:
        """Free every engine, for a stage that loads a model of its own; the next stage with models opens its own."""
        self._planned = None
        for spec in list(self._engines):
            await self._engines.pop(spec).close()

    async def call(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Run one job of a pool's `map_unordered`."""
        return await asyncio.to_thread(work, *arguments)

    def progress(self, step: str) -> Progress:
        """The progress of a step so far; empty if this worker has not taken it up."""
        if self._planned is None or self._planned.step != step:
            return Progress()
        if self._driver is None:
            return Progress(rows=self._frame_rows)
        silent = {name: seconds for name, seconds in self._driver.silence.items() if seconds >= self._patience_s}
        spent = {role: counted.numbers() for role, counted in self._driver.totals.items()}
        batches = standings(self._engines.values())
        for batch in batches:
            silent.pop(batch.engine, None)
        return Progress(
            rows=self._driver.rows_done,
            dropped=self._driver.dropped.total(),
            reasons=dict(self._driver.dropped),
            in_flight=self._driver.in_flight,
            spent=spent,
            silent_s=silent,
            waiting=waiting_at(self._engines.values()),
            batches=batches,
        )

    def stop(self, why: str) -> None:
        """Send nothing more; answers in flight are received and stored, then `work` raises Stopped."""
        self._stopped = why
        self._broken = True
        if self._driver:
            self._driver.stop(Stopped(why))

    async def ready(self, mark: str = "") -> int:
        """Start afresh: forget an earlier `stop`, give back leased requests. Returns the process's id.

        mark: the path of a file in the store, written by the process that started this worker. Raises InputError when
        this node does not see it.
        """
        if mark and not Path(mark).exists():
            raise InputError(
                f"the worker on {socket.gethostname()} does not see {self.store.root}; put the store into a folder "
                "that all nodes share, under the same path"
            )
        if self._stopped:
            self._stopped, self._planned = "", None  # `stop` also stopped the driver, even that of an idle worker
        await asyncio.to_thread(import_module, "synthmill.tasks.running.preloaded")
        await self._close_gate()
        return os.getpid()

    async def close(self) -> None:
        """Seal the call store's segment and free every engine."""
        calls, self._calls, self._driver = self._calls, None, None
        gc.set_threshold(*self._gc_threshold)
        gc.unfreeze()
        self._threads.shutdown(wait=False)
        try:
            await self._close_gate()
        finally:
            await self.make_room()
            if calls:
                calls.close()  # last: on a full disk it fails, and everything else is free by then

    async def _take_up(self, planned: Planned, workers: int) -> None:
        """Close the engines that this step does not need, open those it does, and start its driver."""
        stage = planned.stage
        shares = {role: share_concurrency(settings, workers) for role, settings in planned.roles.items()}
        needed = {settings.model_dump_json(): settings for settings in shares.values()}
        idle = isinstance(stage, FrameStage) and not stage.embeds  # the stage after it may need the engines again
        for spec in self._engines.keys() - (set() if self._broken else self._engines.keys() if idle else needed.keys()):
            await self._engines.pop(spec).close()
        if self._calls is None:
            self._calls = CallStore(self.store.calls, origin={"run": self.run})
        for spec, settings in needed.items():
            if spec not in self._engines:
                engine = make_engine(settings)
                share_pace(engine, workers)
                engine = batched_engine(settings, self.store, self._calls) or make_engine(settings)
                await engine.open()
                self._engines[spec] = engine
        self._frame_rows = 0
        self._broken = False
        self._driver = None
        await self._close_gate()
        if isinstance(stage, Recipe):
            if self._budget and self._lease:
                self._gate = Gate(planned.step, self._budget, self._lease)
            engines = {role: self._engines[settings.model_dump_json()] for role, settings in shares.items()}
            thinking = {role: settings.thinking for role, settings in shares.items()}
            self._driver = Driver(stage, engines, self._calls, self._gate, planned.step, thinking)
            self._patience_s = min([SILENT_S, *(settings.timeout_s for settings in shares.values())])
            for engine in engines.values():
                if isinstance(engine, Batched):
                    engine.busy = self._may_ask_more
        self._planned = planned

    def _may_ask_more(self) -> bool:
        return self._parts_read > 0 or (self._driver is not None and self._driver.may_ask_more)

    async def _close_gate(self) -> None:
        if self._gate:
            await self._gate.close()
            self._gate = None


def read_job(store: Store, stage: Stage, job: Job) -> PartSeal | tuple[pa.Table, dict[str, Loss]]:
    """The seal of a part that has one; else the rows to make it of, and the answers that earlier runs lost."""
    return sealed_part(store, stage.name, job.key) or (
        read_part(store, job.source),
        losses_of(store, stage.name, job.key),
    )


def make_durable(descriptor: int | None, place: Path) -> None:
    """fsync answers and close their file: those of a sealed part survive a power cut."""
    if descriptor is None:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StoreError(
            f"cannot write {place}: {error.strerror}; free space, then run the same command again"
        ) from error
    finally:
        os.close(descriptor)


def is_same_step(current: Planned | None, planned: Planned) -> bool:
    """Whether the worker can go on with its driver: the same work, asked of the same engines."""
    if current is None:
        return False
    return (current.step, current.stage, current.roles) == (planned.step, planned.stage, planned.roles)


def share_concurrency(settings: EngineSettings, workers: int) -> EngineSettings:
    """An engine's settings with one worker's share of its concurrency."""
    return settings.model_copy(update={"concurrency": max(1, -(-settings.concurrency // workers))})
