"""Where parts are made: in this process, or in Ray actors that each run the driver with their share of the
concurrency.

Ray is driven from here, by the process that runs the flow: actors are given a few parts each, so that their windows
stay full from one part to the next, and the next part the moment one is sealed. An actor that dies is replaced; its
parts go to whoever is free and resume from what it had stored. This is the only place that imports Ray.
"""

import asyncio
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import uvloop

from schemas.artifacts import PartSeal, add_spent
from schemas.errors import EngineError, InputError, Stopped, SynthmillError
from schemas.progress import Progress
from schemas.settings import EngineSettings
from storage.artifacts import Store
from tasks.budget import Budget, RemoteLease
from tasks.frames import FrameStage
from tasks.limits import NO_LIMITS, RunLimits
from tasks.stages import OnProgress
from tasks.worker import Job, Stage, Worker

POLL_S = 0.25
PART_ATTEMPTS = 3  # a part whose worker died so often is taken to be the cause
STOPPED = "stopped; everything answered so far is kept, run the same command again to continue"


def workers_for(roles: Mapping[str, EngineSettings], workers: int | None) -> int:
    """How many workers a stage gets: one per replica of a model in process, else as set, else cores - 1."""
    replicas = [settings.replicas for settings in roles.values() if settings.in_process]
    if replicas:
        return max(replicas)
    return workers if workers else max(1, min((os.cpu_count() or 2) - 1, 8))


def parts_ahead(roles: Mapping[str, EngineSettings], workers: int, jobs: Sequence[Job]) -> int:
    """How many parts a worker holds at once: at least two, and enough rows to fill its window twice over."""
    window = sum(settings.concurrency for settings in roles.values()) / workers
    rows = max(1.0, sum(job.source.rows for job in jobs) / max(1, len(jobs)))
    return min(2 + int(2 * window / rows), 64)


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

        self._worker.resume()
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


class RayPool:
    """Makes parts in Ray actors, on a local Ray or a cluster. Ray starts with the first part that has to be made."""

    def __init__(
        self,
        store: Store,
        run: str,
        stop: threading.Event,
        workers: int | None,
        address: str | None,
        limits: RunLimits = NO_LIMITS,
    ) -> None:
        self.store, self.run_id, self.stop, self.workers, self.address = store, run, stop, workers, address
        self.limits = limits
        self._coordinator: Any = None
        self._actors: list[Any] = []
        self._resources: dict[str, float] = {}
        self._started = False

    def run(
        self, stage: Stage, roles: Mapping[str, EngineSettings], jobs: Sequence[Job], on_progress: OnProgress
    ) -> Iterator[PartSeal]:
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        roles = dict(roles)
        count = min(workers_for(roles, self.workers), len(jobs))
        self.start(count, resources_of(roles))
        ahead = 1 if isinstance(stage, FrameStage) else parts_ahead(roles, count, jobs)
        waiting = deque(jobs)
        attempts: dict[str, int] = {}
        working: dict[Any, tuple[Any, Job]] = {}  # reference -> the actor that has the part
        failure: BaseException | None = None
        asked: dict[Any, int] = {}
        heard = [Progress()] * count
        told = time.monotonic()

        def held(actor: Any) -> int:
            return sum(holder is actor for holder, _ in working.values())

        while working or (waiting and failure is None):
            while waiting and failure is None:
                actor = min(self._actors[:count], key=held)
                if held(actor) >= ahead:
                    break
                job = waiting.popleft()
                attempts[job.key] = attempts.get(job.key, 0) + 1
                working[actor.work.remote(stage, roles, count, job, attempts[job.key] > 1)] = (actor, job)
            done, _ = ray.wait(list(working), num_returns=1, timeout=POLL_S)
            for reference in done:
                actor, job = working.pop(reference)
                try:
                    yield ray.get(reference)
                except RayActorError:
                    if failure is None:
                        failure = self._replace(actor, job, attempts)
                        waiting.appendleft(job)
                except RayTaskError as error:
                    cause = error.cause if isinstance(error.cause, SynthmillError) else None
                    failure = failure or cause or SynthmillError(f"a worker failed: {error}")
                    self._tell_stop()
                except RayError as error:
                    failure = failure or EngineError(
                        f"Ray lost a part: {error}; run the same command again to continue"
                    )
                    self._tell_stop()
            if self.stop.is_set() and failure is None:
                failure = Stopped(STOPPED)
                self._tell_stop()
            if time.monotonic() - told > POLL_S:
                told = time.monotonic()
                for reference in [r for r in asked if ray.wait([r], timeout=0)[0]]:
                    with suppress(RayError):
                        heard[asked[reference]] = ray.get(reference)
                    del asked[reference]
                on_progress(added(heard))
                if failure is None and (failure := self.limits.reached(stage, added(heard))):
                    self._tell_stop()
                free = [i for i in range(count) if i not in asked.values()]
                asked.update((self._actors[i].progress.remote(stage.name), i) for i in free)
        with suppress(RayError):
            last = [actor.progress.remote(stage.name) for actor in self._actors[:count]]
            on_progress(added(ray.get(last, timeout=5)))
        if failure:
            raise failure

    def make_room(self) -> None:
        import ray

        if self._actors:
            ray.get([actor.make_room.remote() for actor in self._actors])

    def spread(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        count = min(workers_for({}, self.workers), len(jobs))
        self.start(count, {"CPU": 1.0})
        waiting = deque((job, 1) for job in jobs)
        free = list(self._actors[:count])
        working: dict[Any, tuple[Any, tuple[Any, ...], int]] = {}
        while waiting or working:
            if self.stop.is_set():
                raise Stopped(STOPPED)
            while waiting and free:
                actor, (job, attempt) = free.pop(), waiting.popleft()
                working[actor.call.remote(work, job)] = actor, job, attempt
            for reference in ray.wait(list(working), num_returns=1, timeout=POLL_S)[0]:
                actor, job, attempt = working.pop(reference)
                try:
                    yield ray.get(reference)
                except RayActorError as error:
                    if attempt == PART_ATTEMPTS:
                        raise EngineError(
                            f"one piece of work lost its worker {PART_ATTEMPTS} times (out of memory?); lower "
                            "--workers, then run the same command again to continue"
                        ) from error
                    waiting.append((job, attempt + 1))
                    place = self._actors.index(actor)
                    self._actors[place] = actor = self._new_actor()
                except RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, SynthmillError) else error) from error
                except RayError as error:
                    raise EngineError(f"Ray lost some work: {error}; run the same command again to continue") from error
                free.append(actor)

    def close(self) -> None:
        """Let every actor seal its call store and free its engines, then end a Ray that we started."""
        import ray

        if not self._started:
            return
        self._end_actors()
        if self.address is None:
            ray.shutdown()

    def start(self, count: int, resources: dict[str, float]) -> None:
        """Have Ray and `count` actors; raises InputError when the cluster could never hold them."""
        import ray

        if not self._started:
            start_ray(self.address)
            self._started = True
        if resources != self._resources:
            self._end_actors()
            self._resources = resources
        have, need = ray.cluster_resources(), {name: number * count for name, number in resources.items()}
        for name, number in need.items():
            if have.get(name, 0) < number:
                raise InputError(
                    f"{count} workers need {number:g} {name}, this Ray has {have.get(name, 0):g}; lower "
                    "--workers or the engine's "
                    "replicas, or name a larger cluster with --ray-address"
                )
        while len(self._actors) < count:
            self._actors.append(self._new_actor())
        ray.get([actor.resume.remote() for actor in self._actors])

    def _new_actor(self) -> Any:
        import ray

        actor = ray.remote(Worker).options(
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0),
            max_concurrency=1000,
            max_restarts=0,
        )
        if self.limits.budget and self._coordinator is None:
            self._coordinator = (
                ray.remote(Budget).options(num_cpus=0).remote(self.limits.budget.settings, self.limits.budget.spent)
            )
        budget = (self.limits.budget.settings, RemoteLease(self._coordinator)) if self.limits.budget else ()
        return actor.remote(self.store, self.run_id, *budget)

    def _replace(self, dead: Any, job: Job, attempts: Mapping[str, int]) -> BaseException | None:
        """A worker died: start another in its place, once, unless this part has cost too many."""
        if attempts[job.key] >= PART_ATTEMPTS:
            self._tell_stop()
            return EngineError(
                f"part {job.key[:8]} lost its worker {PART_ATTEMPTS} times (out of memory?); lower the engine's "
                "concurrency or replicas, then run the same command again to continue"
            )
        if dead in self._actors:
            self._actors[self._actors.index(dead)] = self._new_actor()
        return None

    def _tell_stop(self) -> None:
        for actor in self._actors:
            actor.stop.remote(STOPPED)

    def _end_actors(self) -> None:
        import ray

        with suppress(Exception):
            ray.get([actor.close.remote() for actor in self._actors], timeout=60)
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()


def resources_of(roles: Mapping[str, EngineSettings]) -> dict[str, float]:
    """What one worker needs: a CPU, and for vLLM the GPUs of its tensor parallel group where the cluster has any."""
    import ray

    gpus = max((int(s.options.get("tensor_parallel_size", 1)) for s in roles.values() if s.kind == "vllm"), default=0)
    has_gpu = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    return {"CPU": 1.0, "GPU": float(gpus)} if gpus and has_gpu else {"CPU": 1.0}


def start_ray(address: str | None) -> None:
    """Start a quiet local Ray, or join a cluster. Raises EngineError when the cluster cannot be joined."""
    import logging

    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"object_store_memory": 128 << 20}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"Ray at {address or 'this machine'} cannot be reached ({error}); start it, or leave out --ray-address"
        ) from error


def added(progress: Sequence[Progress]) -> Progress:
    return Progress(
        rows=sum(p.rows for p in progress),
        dropped=sum(p.dropped for p in progress),
        reasons=dict(sum((Counter(p.reasons) for p in progress), Counter())),
        in_flight=sum(p.in_flight for p in progress),
        spent=add_spent(p.spent for p in progress),
    )


def make_pool(
    store: Store,
    run: str,
    stop: threading.Event,
    workers: int | None,
    address: str | None,
    limits: RunLimits = NO_LIMITS,
) -> InProcess | RayPool:
    """`workers=0`: in this process; else Ray."""
    if workers == 0:
        return InProcess(store, run, stop, limits)
    return RayPool(store, run, stop, workers, address, limits)
