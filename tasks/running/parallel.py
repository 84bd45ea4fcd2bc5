"""Ray actors make a stage's parts, on this machine or a cluster; each runs the driver with its share of the
concurrency.

The process that runs the flow hands out the parts: a few to each actor, so that its window stays full from one part to
the next, and another the moment one is sealed. An actor that dies, or whose node is lost, is replaced; the actors that
are up take over its parts and resume from its stored answers. Actors work as soon as Ray has placed them, others join
when there is room. Ray is imported here and in actors.py only.
"""

import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from synthmill.schemas.artifacts import PartSeal
from synthmill.schemas.errors import STOPPED, EngineError, EngineRefused, InputError, Stopped, SynthmillError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.running.actors import (
    AGAIN,
    CLOSE_S,
    PART_ATTEMPTS,
    ROOM_S,
    SAY_WAITING_S,
    ActorPool,
    ProgressReports,
    Schedule,
    WaitForRoom,
    fetch_result,
    first_done,
    worker_lost,
)
from synthmill.tasks.running.batching import asks_in_batches
from synthmill.tasks.running.budget import Budget, RemoteLease
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Job, Planned
from synthmill.tasks.running.limits import NO_LIMITS, RunLimits
from synthmill.tasks.running.sharing import parts_ahead, workers_for
from synthmill.tasks.running.stages import OnProgress
from synthmill.tasks.running.worker import Worker

REACH_S = 10
PRELOADED = "synthmill.tasks.running.preloaded"
"""What a local Ray's processes import when they start, before they get work."""
MOST_PRELOADED = 8


class RayPool:
    """Makes parts in Ray actors. Ray starts with the first part that has to be made."""

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
        self._actors = ActorPool(self._new_actor, str(store.runs / f"{run}.json") if address else "")
        self._resources: dict[str, float] = {}
        self._started = False
        self._here: InProcess | None = None
        choose_token(address)

    def run(self, planned: Planned, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[PartSeal]:
        if asks_in_batches(planned.roles):
            self._here = self._here or InProcess(self.store, self.run_id, self.stop, self.limits)
            yield from self._here.run(planned, jobs, on_progress)
            return
        from ray.exceptions import RayActorError

        roles = planned.roles
        self._start_ray()
        count = min(workers_for(roles, self.workers, self._cores()), len(jobs))
        count = self._ensure(count, resources_of(roles), borrow=not roles)
        self._recount_budget()
        schedule = Schedule(jobs, 1 if isinstance(planned.stage, FrameStage) else parts_ahead(roles, count, jobs))
        reports = ProgressReports(planned.step)
        room = WaitForRoom(self._resources)
        ready: list[Any] = []

        def start(actor: Any, job: Job, retry: bool) -> Any:
            return actor.work.remote(planned, count, job, retry)

        while schedule.unfinished:
            self._check_ray()
            ready = self._ready(schedule, count)
            schedule.assign(ready, start)
            room.check(bool(schedule.working), self._actors.starting)
            for reference in first_done(schedule.working):
                actor, job = schedule.working.pop(reference)
                try:
                    yield fetch_result(reference)
                except RayActorError:
                    self._actors.replace(actor)
                    if not schedule.retry(job) and schedule.failure is None:
                        lost = worker_lost(f"part {job.key[:8]}", "the engine's concurrency or replicas")
                        self._end_early(schedule, lost)
                except SynthmillError as error:
                    self._end_early(schedule, error)
            if self.stop.is_set() and schedule.failure is None:
                self._end_early(schedule, Stopped(STOPPED))
            if reports.due():
                on_progress(progress := reports.collect())
                if schedule.failure is None and (limit := self.limits.reached(planned, progress)):
                    self._end_early(schedule, limit, limit.message)
                reports.ask(ready)
        on_progress(reports.collect_last(ready))
        if schedule.failure:
            raise schedule.failure

    def _ready(self, schedule: Schedule, count: int) -> list[Any]:
        """At most `count` actors that are up, those at work first; none when that fails, which ends the stage early."""
        try:
            actors = self._actors.ready()
        except SynthmillError as error:
            self._end_early(schedule, error)
            return []
        return sorted(actors, key=lambda actor: not schedule.parts_of(actor))[:count]

    def _end_early(self, schedule: Schedule, failure: SynthmillError, why: str = STOPPED) -> None:
        """Hand out nothing more, and stop the actors. The first failure is the one that is raised in the end."""
        schedule.failure = schedule.failure or failure
        self._actors.stop(why)

    def make_room(self) -> None:
        import ray

        if self._here:
            self._here.make_room()
        if self._started:
            self._check_ray()
            if freeing := [actor.make_room.remote() for actor in self._actors.ready()]:
                ray.wait(freeing, num_returns=len(freeing), timeout=CLOSE_S)

    def map_unordered(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        from ray.exceptions import RayActorError

        self._start_ray()
        count = min(workers_for({}, self.workers, self._cores()), len(jobs))
        count = self._ensure(count, {"CPU": 1.0}, borrow=True)
        waiting = deque((job, 1) for job in jobs)
        working: dict[Any, tuple[Any, tuple[Any, ...], int]] = {}
        room = WaitForRoom(self._resources)
        while waiting or working:
            if self.stop.is_set():
                raise Stopped(STOPPED)
            self._check_ray()
            busy = [actor for actor, _, _ in working.values()]
            for actor in [actor for actor in self._actors.ready() if actor not in busy]:
                if waiting and len(working) < count:
                    job, attempt = waiting.popleft()
                    working[actor.call.remote(work, job)] = actor, job, attempt
            room.check(bool(working), self._actors.starting)
            for reference in first_done(working):
                actor, job, attempt = working.pop(reference)
                try:
                    yield fetch_result(reference)
                except RayActorError as error:
                    if attempt == PART_ATTEMPTS:
                        raise worker_lost("one piece of work", "--workers") from error
                    waiting.append((job, attempt + 1))
                    self._actors.replace(actor)

    def start(self, count: int, resources: dict[str, float]) -> None:
        """Start Ray and wait for `count` actors. Raises InputError when the cluster could never hold them."""
        self._start_ray()
        self._ensure(count, resources)
        self._actors.wait_until_ready(ROOM_S)

    def close(self) -> None:
        """Let every actor seal its call store and free its engines, then end a Ray that we started."""
        if self._here:
            self._here.close()
        import ray

        if not self._started:
            return
        if self._died():
            self._abandon()
            return
        self._actors.end()
        if self.address is None:
            ray.shutdown()

    def _start_ray(self) -> None:
        if self._started:
            self._check_ray()
        else:
            start_ray(self.address)
            self._started = True

    def _ensure(self, count: int, resources: dict[str, float], *, borrow: bool = False) -> int:
        """Ask Ray for `count` workers with these resources; returns how many the stage gets.

        borrow: work that asks no model uses the workers that hold one, so that it need not be loaded again. Raises
        InputError where there will never be room: on this machine for all workers, on a cluster for one.
        """
        if borrow and len(self._actors) and all(self._resources.get(name, 0) >= n for name, n in resources.items()):
            resources = self._resources
            if len(resources) > 1:  # more than CPUs: no more of them than there are
                count = min(count, len(self._actors))
        if resources != self._resources:
            self._actors.end()
            self._resources = resources
        if (room := room_for(resources)) < count:
            needs = ", ".join(f"{number:g} {name}" for name, number in resources.items())
            shortage = f"{count} workers need {needs} each, on one node; this Ray has room for {room}"
            if self.address is None or not room:
                raise InputError(
                    f"{shortage}; lower --workers or the engine's replicas, or name a larger cluster with --ray-address"
                )
            print(f"{shortage}: the others start when there is more", file=sys.stderr, flush=True)
        self._actors.ensure(count)
        return count

    def _new_actor(self) -> Any:
        import ray

        actor = ray.remote(Worker).options(
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0),
            max_concurrency=1000,
            max_restarts=0,
        )
        budget = self.limits.budget
        return actor.remote(
            self.store, self.run_id, *((budget.settings, RemoteLease(self._budget_actor())) if budget else ())
        )

    def _budget_actor(self) -> Any:
        """The budget's coordinator: an actor on this node, so that it survives the loss of any other."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._coordinator is None and self.limits.budget:
            on_this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            coordinator = ray.remote(Budget).options(num_cpus=0, scheduling_strategy=on_this_node)
            self._coordinator = coordinator.remote(self.limits.budget.settings, {})
        return self._coordinator

    def _recount_budget(self) -> None:
        """Tell the coordinator what this job has spent by now, other runs' share included."""
        if self.limits.budget:
            from ray.exceptions import RayError

            self._actors.wait_until_ready(SAY_WAITING_S, earlier_only=True)  # they give back what they had leased
            try:
                fetch_result(self._budget_actor().reset.remote(self.limits.spent()))
            except RayError as error:
                self._coordinator = None
                self._actors.end()  # they hold the dead coordinator's address
                raise EngineError(f"the budget's coordinator is gone; {AGAIN}") from error

    def _cores(self) -> int | None:
        import ray

        return int(ray.cluster_resources().get("CPU", 1)) if self.address else None

    def _died(self) -> set[str]:
        """The dead processes of a Ray that we started: raylet, gcs_server, or both."""
        import ray

        node = None if self.address else ray._private.worker._global_node
        return {kind for kind, _ in node.dead_processes()} & {"raylet", "gcs_server"} if node else set()

    def _abandon(self) -> None:
        import ray

        self._actors.abandon()
        self._coordinator, self._resources, self._started = None, {}, False
        ray.shutdown()

    def _check_ray(self) -> None:
        """Raises EngineError when a Ray that we started is gone; the next stage, or the next try, starts another."""
        if died := self._died():
            self._abandon()
            raise EngineError(f"Ray's {' and '.join(sorted(died))} died (out of memory?); {AGAIN}")


def room_for(resources: Mapping[str, float]) -> int:
    """How many workers the living nodes could hold, each on one node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get(name, 0) / number for name, number in resources.items())) for node in nodes)


def resources_of(roles: Mapping[str, EngineSettings]) -> dict[str, float]:
    """What one worker needs: a CPU, and for vLLM the GPUs of its parallel group where the cluster has any."""
    import ray

    gpus = max((gpus_of(settings) for settings in roles.values() if settings.kind == "vllm"), default=0)
    has_gpu = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    return {"CPU": 1.0, "GPU": float(gpus)} if gpus and has_gpu else {"CPU": 1.0}


def gpus_of(settings: EngineSettings) -> int:
    sizes = (settings.options.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
    return int(next(sizes)) * int(next(sizes))


def choose_token(address: str | None) -> None:
    """Let Ray's parts know each other by a token, where we hold one; before Ray is imported."""
    if address is None or has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def has_token() -> bool:
    """Whether we hold a token; a cluster that asks for none lets us join in any case."""
    in_environment = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return in_environment or Path("~/.ray/auth_token").expanduser().exists()


def start_ray(address: str | None) -> None:
    """Start a quiet local Ray, or join a cluster. Raises InputError for a malformed address, EngineRefused where the
    cluster cannot be joined.
    """
    import logging

    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return
    host_port = re.fullmatch(r"\[?([^\s/\[\]]+)\]?:(\d{1,5})", address or "")
    if address and address != "auto" and not host_port:
        raise InputError(f"--ray-address {address!r} is no cluster; expected HOST:PORT, or auto for this machine's")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves workers beside any busy process
    if (os.cpu_count() or 1) <= MOST_PRELOADED:  # Ray starts a process for each core, wanted or not
        os.environ.setdefault("RAY_preload_python_modules", PRELOADED)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if host_port:  # Ray itself would try for minutes
            socket.create_connection((host_port[1], int(host_port[2])), REACH_S).close()
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"object_store_memory": 128 << 20}),
        )
    except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
        raise EngineRefused(
            f"Ray at {address or 'this machine'} cannot be reached ({error}); start it, or leave out --ray-address"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray's own handlers would end us at once
            signal.signal(number, handler or signal.SIG_DFL)


def start_ray_early() -> None:
    """Start a Ray of our own for the pool that will need it; what goes wrong here goes wrong there again."""
    choose_token(None)
    with suppress(SynthmillError):
        start_ray(None)


def make_pool(
    store: Store,
    run: str,
    stop: threading.Event,
    workers: int | None,
    address: str | None,
    limits: RunLimits = NO_LIMITS,
) -> InProcess | RayPool:
    """A pool in this process (`workers=0`) or in Ray actors."""
    if workers == 0:
        return InProcess(store, run, stop, limits)
    return RayPool(store, run, stop, workers, address, limits)
