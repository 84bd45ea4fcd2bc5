"""Parts made in this process, on one event loop, in a thread of its own."""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import uvloop

from schemas.artifacts import PartSeal
from schemas.errors import Stopped, SynthmillError
from schemas.progress import Progress
from schemas.settings import EngineSettings
from storage.artifacts import Store
from tasks.frames import FrameStage
from tasks.limits import NO_LIMITS, RunLimits
from tasks.sharing import POLL_S, STOPPED, parts_ahead
from tasks.stages import OnProgress
from tasks.worker import Job, Stage, Worker


class InProcess:
    """Makes parts on one event loop, in a thread of this process."""

    def __init__(self, store: Store, run: str, stop: threading.Event, limits: RunLimits = NO_LIMITS) -> None:
        self.stop, self.limits = stop, limits
        self._worker = Worker(store, run, *limits.here())
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._thread: threading.Thread | None = None

    def run(
        self, stage: Stage, roles: Mapping[str, EngineSettings], jobs: Sequence[Job], on_progress: OnProgress
    ) -> Iterator[PartSeal]:
        news: queue.SimpleQueue[PartSeal | Progress | BaseException | None] = queue.SimpleQueue()
        ahead = 1 if isinstance(stage, FrameStage) else parts_ahead(roles, 1, jobs)

        def work() -> None:
            try:
                self._runner.run(self._run(stage, dict(roles), deque(jobs), ahead, news.put))
                news.put(None)
            except BaseException as error:
                news.put(error)

        self._thread = threading.Thread(target=work, name="synthmill-driver", daemon=True)
        self._thread.start()
        while (item := news.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Progress):
                on_progress(item)
            else:
                yield item
        self._thread.join()

    def make_room(self) -> None:
        self._runner.run(self._worker.make_room())

    def spread(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        for job in jobs:
            if self.stop.is_set():
                raise Stopped(STOPPED)
            yield work(*job)

    async def _run(
        self,
        stage: Stage,
        roles: dict[str, EngineSettings],
        waiting: deque[Job],
        ahead: int,
        tell: Callable[[PartSeal | Progress], None],
    ) -> None:
        working: set[asyncio.Task[PartSeal]] = set()
        failure: SynthmillError | BaseException | None = None
        told = 0.0
        await self._worker.ready()
        self.limits.count_again()
        while working or (waiting and failure is None):
            while waiting and failure is None and len(working) < ahead:
                working.add(asyncio.create_task(self._worker.work(stage, roles, 1, waiting.popleft())))
            done, working = await asyncio.wait(working, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if error := task.exception():
                    failure = failure or error
                else:
                    tell(task.result())
            if self.stop.is_set() and failure is None:
                self._worker.stop(STOPPED)
                failure = Stopped(STOPPED)
            if time.monotonic() - told > POLL_S or not working:
                told = time.monotonic()
                tell(progress := self._worker.progress(stage.name))
                if failure is None and (failure := self.limits.reached(stage, progress)):
                    self._worker.stop(failure.message)
        if failure:
            raise failure

    def close(self) -> None:
        """Seal and free everything; what is still in flight (after a second Ctrl-C) is given up."""
        if self._thread and self._thread.is_alive():
            loop = self._runner.get_loop()
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            self._thread.join(10)
        if not (self._thread and self._thread.is_alive()):
            self._runner.run(self._worker.close())
            self._runner.close()
