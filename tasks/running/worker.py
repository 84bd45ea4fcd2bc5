"""A worker: takes parts of a stage, one after the other and several at once, and leaves each one sealed.

It is the same object in this process and inside a Ray actor. Engines stay loaded from stage to stage until a stage
comes that has other models, so that two large models never share one GPU by accident.
"""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from schemas.artifacts import Loss, PartSeal
from schemas.budget import BudgetSettings
from schemas.errors import InputError, Stopped, StoreError
from schemas.progress import Progress
from schemas.rows import from_arrow
from schemas.settings import EngineSettings
from storage.artifacts import Store, losses_of, read_part, rows_to_table, seal_part, sealed_part
from storage.calls import CallStore
from tasks.engines.engine import Engine, make_engine
from tasks.frames import FrameStage, StageContext, run_locally
from tasks.recipe import Recipe
from tasks.running.budget import Gate, Lease
from tasks.running.driver import Driver
from tasks.running.flights import PartResult, Spent
from tasks.running.job import Job, Planned, Stage

SILENT_S = 60.0  # after which it is said that an engine answers nothing, or after its time-out if that is less
GC_THRESHOLD = (50_000, 20, 100)


class Worker:
    """Makes parts of one stage after another; it is told how many workers share each engine's concurrency."""

    def __init__(
        self, store: Store, run: str, budget: BudgetSettings | None = None, lease: Lease | None = None
    ) -> None:
        """lease: asks the budget's coordinator for the right to send; none where there is no limit."""
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
        self._patience_s = SILENT_S
        self._broken = False
        self._stopped = ""
        # Rows and answers are many, live long and hold no cycles; looking for them takes a sixth of the time otherwise.
        self._gc_threshold = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)

    async def work(self, planned: Planned, workers: int, job: Job, again: bool = False) -> PartSeal:
        """Make and seal one part, or return it if it is there. again: another worker died on it, so see what that one
        stored.

        workers: how many share each engine's concurrency. Raises EngineError, StoreError, Stopped.
        """
        async with self._opening:
            if not is_same(self._planned, planned):
                await self._take_up(planned, workers)
        try:
            return await self._make(planned.stage, job, again)
        except Exception:
            self._planned = None  # the next attempt starts with a fresh driver and fresh engines
            self._broken = True
            raise

    async def _make(self, stage: Stage, job: Job, again: bool) -> PartSeal:
        if self._stopped:  # while an engine was opening
            raise Stopped(self._stopped)
        if again and self._calls:
            self._calls.refresh()
        started = time.monotonic()
        if seal := await asyncio.to_thread(sealed_part, self.store, stage.name, job.key):
            return seal
        table = await asyncio.to_thread(read_part, self.store, job.source)
        ids_in = table["id"].to_pylist()
        if isinstance(stage, FrameStage):
            made, dropped = await asyncio.to_thread(stage.run_on, table, StageContext(self.store.root, run_locally, {}))
            self._frame_rows += len(ids_in)
            spent: dict[str, Spent] = {}
            lost: dict[str, Loss] = {}
        else:
            assert self._driver and self._calls
            before = await asyncio.to_thread(losses_of, self.store, stage.name, job.key)
            result: PartResult = await self._driver.run(from_arrow(stage.takes, table), before)
            await self._make_durable(self._calls)
            made, dropped = rows_to_table(stage.makes, result.rows, result.calls), result.dropped
            spent, lost = result.spent, result.lost
        return await asyncio.to_thread(
            seal_part,
            self.store,
            stage.name,
            job.key,
            made,
            dropped,
            ids_in=ids_in,
            lost=lost,
            spent={role: asdict(numbers) for role, numbers in spent.items()},
            seconds=time.monotonic() - started,
        )

    async def make_room(self) -> None:
        """Free every engine, for a stage that loads a model of its own; the next stage that asks opens them again."""
        self._planned = None
        for spec in list(self._engines):
            await self._engines.pop(spec).close()

    async def call(self, work: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """A share of what a stage over the whole set spreads."""
        return await asyncio.to_thread(work, *given)

    def progress(self, step: str) -> Progress:
        """What was done of this step so far; nothing, if it was not taken up yet."""
        if self._planned is None or self._planned.step != step:
            return Progress()
        if self._driver is None:
            return Progress(rows=self._frame_rows)
        silent = {name: seconds for name, seconds in self._driver.silence.items() if seconds >= self._patience_s}
        spent = {role: asdict(numbers) for role, numbers in self._driver.totals.items()}
        return Progress(
            rows=self._driver.rows_done,
            dropped=self._driver.dropped.total(),
            reasons=dict(self._driver.dropped),
            in_flight=self._driver.in_flight,
            spent=spent,
            silent_s=silent,
        )

    def stop(self, why: str) -> None:
        """Send nothing more; what is in flight is received and stored, then `work` raises Stopped."""
        self._stopped = why
        self._broken = True
        if self._driver:
            self._driver.stop(Stopped(why))

    async def ready(self, mark: str = "") -> int:
        """Start afresh: forget an earlier `stop`, give back what was leased; returns the process's id.

        mark: a file of the store, as those who started this worker see it. Raises InputError where it is not seen here.
        """
        if mark and not Path(mark).exists():
            raise InputError(
                f"the worker on {socket.gethostname()} does not see {self.store.root}; put the store into a folder "
                "that all nodes share, under the same path"
            )
        if self._stopped:
            self._stopped, self._planned = "", None  # an idle worker's driver was stopped, too
        await self._close_gate()
        return os.getpid()

    async def close(self) -> None:
        """Seal the call store's segment and free every engine."""
        calls, self._calls, self._driver = self._calls, None, None
        gc.set_threshold(*self._gc_threshold)
        gc.unfreeze()
        try:
            await self._close_gate()
        finally:
            await self.make_room()
            if calls:
                calls.close()  # last: a full disk keeps nothing else from being freed

    async def _take_up(self, planned: Planned, workers: int) -> None:
        stage = planned.stage
        shares = {role: shared(settings, workers) for role, settings in planned.roles.items()}
        needed = {settings.model_dump_json(): settings for settings in shares.values()}
        idle = isinstance(stage, FrameStage) and not stage.embeds  # the stage after it may need the engines again
        for spec in self._engines.keys() - (set() if self._broken else self._engines.keys() if idle else needed.keys()):
            await self._engines.pop(spec).close()
        if self._calls is None:
            self._calls = CallStore(self.store.calls, origin={"run": self.run})
        for spec, settings in needed.items():
            if spec not in self._engines:
                engine = make_engine(settings)
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
            self._driver = Driver(stage, engines, self._calls, self._gate, planned.step)
            self._patience_s = min([SILENT_S, *(settings.timeout_s for settings in shares.values())])
        self._planned = planned

    async def _close_gate(self) -> None:
        if self._gate:
            await self._gate.close()
            self._gate = None

    @staticmethod
    async def _make_durable(calls: CallStore) -> None:
        """A sealed part's answers must survive a power cut; fsync runs in a thread, so the window stays full."""
        calls.flush()
        if (descriptor := calls.duplicate_descriptor()) is None:
            return

        def sync() -> None:
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise StoreError(
                    f"cannot write {calls.place}: {error.strerror}; free space, then run the same command again"
                ) from error
            finally:
                os.close(descriptor)

        await asyncio.to_thread(sync)


def is_same(planned: Planned | None, other: Planned) -> bool:
    """Whether a worker that has taken up one step goes on with the other: the same work, asked of the same engines."""
    if planned is None:
        return False
    return (planned.step, planned.stage, planned.roles) == (other.step, other.stage, other.roles)


def shared(settings: EngineSettings, workers: int) -> EngineSettings:
    """The engine with one worker's share of its concurrency."""
    return settings.model_copy(update={"concurrency": max(1, -(-settings.concurrency // workers))})
