"""Makes parts in this process, on one event loop in a thread of its own, so that it also works where an event loop runs
already, as in a notebook.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

from synthmill.schemas.artifacts import PartSeal
from synthmill.schemas.errors import STOPPED, Stopped, SynthmillError
from synthmill.schemas.progress import Progress
from synthmill.storage.artifacts import Store
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.running.job import Job, Planned
from synthmill.tasks.running.limits import NO_LIMITS, RunLimits
from synthmill.tasks.running.sharing import POLL_S, parts_ahead
from synthmill.tasks.running.stages import OnProgress
from synthmill.tasks.running.worker import Worker

GIVEN_UP_S = 10
Result = TypeVar("Result")


class InProcess:
    """Makes parts on one event loop, in a thread of this process."""

    def __init__(self, store: Store, run: str, stop: threading.Event, limits: RunLimits = NO_LIMITS) -> None:
        self.stop, self.limits = stop, limits
        self._worker = Worker(store, run, *limits.local_lease())
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread: threading.Thread | None = None

    def run(self, planned: Planned, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[PartSeal]:
        events: queue.SimpleQueue[PartSeal | Progress | BaseException | None] = queue.SimpleQueue()
        ahead = 1 if isinstance(planned.stage, FrameStage) else parts_ahead(planned.roles, 1, jobs)

        async def work() -> None:
            try:
                await self._run(planned, deque(jobs), ahead, events.put)
                events.put(None)
            except BaseException as error:
                events.put(error)

        self._start(work())
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Progress):
                on_progress(event)
            else:
                yield event

    def make_room(self) -> None:
        self._start(self._worker.make_room()).result()

    def map_unordered(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        for job in jobs:
            if self.stop.is_set():
                raise Stopped(STOPPED)
            yield work(*job)

    def _start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a coroutine on our loop; the first one starts the loop, too."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="synthmill-driver", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _run(
        self,
        planned: Planned,
        waiting: deque[Job],
        ahead: int,
        put: Callable[[PartSeal | Progress], None],
    ) -> None:
        working: set[asyncio.Task[PartSeal]] = set()
        failure: SynthmillError | BaseException | None = None
        reported_at = 0.0
        await self._worker.ready()
        self.limits.recount_budget()
        while working or (waiting and failure is None):
            while waiting and failure is None and len(working) < ahead:
                working.add(asyncio.create_task(self._worker.work(planned, 1, waiting.popleft())))
            done, working = await asyncio.wait(working, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if error := task.exception():
                    failure = failure or error
                else:
                    put(task.result())
            if self.stop.is_set() and failure is None:
                self._worker.stop(STOPPED)
                failure = Stopped(STOPPED)
            if time.monotonic() - reported_at > POLL_S or not working:
                reported_at = time.monotonic()
                put(progress := self._worker.progress(planned.step))
                if failure is None and (failure := self.limits.reached(planned, progress)):
                    self._worker.stop(failure.message)
        if failure:
            raise failure

    def close(self) -> None:
        """Seal the call store and free the engines; gives up what is still in flight (after a second Ctrl-C)."""

        async def close() -> None:
            working = asyncio.all_tasks() - {asyncio.current_task()}
            for task in working:
                task.cancel()
            if working:
                await asyncio.wait(working, timeout=GIVEN_UP_S)
            try:
                await self._worker.close()
            finally:
                await self._loop.shutdown_asyncgens()
                await self._loop.shutdown_default_executor()

        try:
            self._start(close()).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            assert self._thread
            self._thread.join(GIVEN_UP_S)
            if not self._loop.is_running():
                self._loop.close()
