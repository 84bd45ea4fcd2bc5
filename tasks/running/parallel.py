"""Where parts are made by Ray actors, on this machine or a cluster; each runs the driver with its share of the
concurrency.

Ray is driven from here, by the process that runs the flow: actors are given a few parts each, so that their windows
stay full from one part to the next, and the next part the moment one is sealed. An actor that dies, or whose node is
lost, is asked for again; the actors that are up take over its parts and resume from the answers that it had stored.
Actors work as soon as Ray has placed them, others join when there is room. Ray is imported here and in actors.py only.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.artifacts import PartSeal
from schemas.errors import STOPPED, EngineError, EngineRefused, InputError, Stopped, SynthmillError
from schemas.progress import Progress
from schemas.settings import EngineSettings
from storage.artifacts import Store
from tasks.frames import FrameStage
from tasks.running.actors import (
    AGAIN,
    CLOSE_S,
    PART_ATTEMPTS,
    ROOM_S,
    SAY_WAITING_S,
    ActorPool,
    Idle,
    first_of,
    got,
    lost,
)
from tasks.running.budget import Budget, RemoteLease
from tasks.running.in_process import InProcess
from tasks.running.job import Job, Planned
from tasks.running.limits import NO_LIMITS, RunLimits
from tasks.running.sharing import POLL_S, added, parts_ahead, workers_for
from tasks.running.stages import OnProgress
from tasks.running.worker import Worker

REACH_S = 10


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
        if address is None or has_token():  # before Ray is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")

    def run(self, planned: Planned, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[PartSeal]:
        import ray
        from ray.exceptions import RayActorError, RayError

        roles = planned.roles
        self._start_ray()
        count = min(workers_for(roles, self.workers, self._cores()), len(jobs))
        count = self._ensure(count, resources_of(roles), borrow=not roles)
        self._count_again()
        ahead = 1 if isinstance(planned.stage, FrameStage) else parts_ahead(roles, count, jobs)
        waiting = deque(jobs)
        attempts: dict[str, int] = {}
        working: dict[Any, tuple[Any, Job]] = {}  # reference -> the actor that has the part
        failure: BaseException | None = None
        asked: dict[Any, Any] = {}  # reference -> the actor that was asked how far it is
        heard: dict[Any, Progress] = {}
        idle = Idle(self._resources)
        told = time.monotonic()
        ready: list[Any] = []

        def held(actor: Any) -> int:
            return sum(holder is actor for holder, _ in working.values())

        while working or (waiting and failure is None):
            self._check_ray()
            try:
                up = self._actors.ready()
                ready = sorted(up, key=lambda actor: not held(actor))[:count]  # no more than so many ever work
            except SynthmillError as error:
                ready, failure = [], failure or error
                self._actors.tell(STOPPED)
            while waiting and ready and failure is None:
                actor = min(ready, key=held)
                if held(actor) >= ahead:
                    break
                job = waiting.popleft()
                attempts[job.key] = attempts.get(job.key, 0) + 1
                working[actor.work.remote(planned, count, job, attempts[job.key] > 1)] = (actor, job)
            idle.look(bool(working))
            for reference in first_of(working):
                actor, job = working.pop(reference)
                try:
                    yield got(reference)
                except RayActorError:
                    self._actors.replace(actor)
                    waiting.appendleft(job)
                    if attempts[job.key] >= PART_ATTEMPTS and failure is None:
                        failure = lost(f"part {job.key[:8]}", "the engine's concurrency or replicas")
                        self._actors.tell(STOPPED)
                except SynthmillError as error:
                    failure = failure or error
                    self._actors.tell(STOPPED)
            if self.stop.is_set() and failure is None:
                failure = Stopped(STOPPED)
                self._actors.tell(STOPPED)
            if time.monotonic() - told > POLL_S:
                told = time.monotonic()
                for reference in [r for r in asked if ray.wait([r], timeout=0)[0]]:
                    with suppress(RayError):
                        heard[asked[reference]] = ray.get(reference)
                    del asked[reference]
                on_progress(now := added(list(heard.values())))
                if failure is None and (failure := self.limits.reached(planned, now)):
                    self._actors.tell(failure.message)
                free = [actor for actor in ready if actor not in asked.values()]
                asked.update((actor.progress.remote(planned.step), actor) for actor in free)
        last = {actor.progress.remote(planned.step): actor for actor in ready}
        for reference in ray.wait(list(last), num_returns=len(last), timeout=5)[0] if last else ():
            with suppress(RayError):
                heard[last[reference]] = ray.get(reference)
        on_progress(added(list(heard.values())))
        if failure:
            raise failure

    def make_room(self) -> None:
        import ray

        if self._started:
            self._check_ray()
            if making := [actor.make_room.remote() for actor in self._actors.ready()]:
                ray.wait(making, num_returns=len(making), timeout=CLOSE_S)

    def map_unordered(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        from ray.exceptions import RayActorError

        self._start_ray()
        count = min(workers_for({}, self.workers, self._cores()), len(jobs))
        count = self._ensure(count, {"CPU": 1.0}, borrow=True)
        waiting = deque((job, 1) for job in jobs)
        working: dict[Any, tuple[Any, tuple[Any, ...], int]] = {}
        idle = Idle(self._resources)
        while waiting or working:
            if self.stop.is_set():
                raise Stopped(STOPPED)
            self._check_ray()
            busy = [actor for actor, _, _ in working.values()]
            for actor in [one for one in self._actors.ready() if one not in busy]:
                if waiting and len(working) < count:
                    job, attempt = waiting.popleft()
                    working[actor.call.remote(work, job)] = actor, job, attempt
            idle.look(bool(working))
            for reference in first_of(working):
                actor, job, attempt = working.pop(reference)
                try:
                    yield got(reference)
                except RayActorError as error:
                    if attempt == PART_ATTEMPTS:
                        raise lost("one piece of work", "--workers") from error
                    waiting.append((job, attempt + 1))
                    self._actors.replace(actor)

    def start(self, count: int, resources: dict[str, float]) -> None:
        """Have Ray and `count` actors that are up; raises InputError when the cluster could never hold them."""
        self._start_ray()
        self._ensure(count, resources)
        self._actors.settle(ROOM_S)

    def close(self) -> None:
        """Let every actor seal its call store and free its engines, then end a Ray that we started."""
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
        """Have so many workers with these resources; returns how many there are to be. borrow: work that asks no model
        takes workers that hold a model as they are, rather than end them and load the model again. Raises InputError
        where there will never be room: on this machine for all, on a cluster for one.
        """
        if borrow and len(self._actors) and all(self._resources.get(name, 0) >= n for name, n in resources.items()):
            resources = self._resources
            if len(resources) > 1:  # more than CPUs: no more of them than there are
                count = min(count, len(self._actors))
        if resources != self._resources:
            self._actors.end()
            self._resources = resources
        each = ", ".join(f"{number:g} {name}" for name, number in resources.items())
        if (room := room_for(resources)) < count:
            said = f"{count} workers need {each} each, on one node; this Ray has room for {room}"
            if self.address is None or not room:
                raise InputError(
                    f"{said}; lower --workers or the engine's replicas, or name a larger cluster with --ray-address"
                )
            print(f"{said}: the others start when there is more", file=sys.stderr, flush=True)
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
        """The budget's coordinator: an actor on this node, so that no other node takes it along."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._coordinator is None and self.limits.budget:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            lender = ray.remote(Budget).options(num_cpus=0, scheduling_strategy=here)
            self._coordinator = lender.remote(self.limits.budget.settings, {})
        return self._coordinator

    def _count_again(self) -> None:
        """Tell the coordinator what this job has spent by now, other runs' share included."""
        if self.limits.budget:
            from ray.exceptions import RayError

            self._actors.settle(SAY_WAITING_S, known=True)  # those of the stage before give back what they leased
            try:
                got(self._budget_actor().reset.remote(self.limits.spent()))
            except RayError as error:
                self._coordinator = None
                self._actors.end()  # they would ask the one that is gone
                raise EngineError(f"the budget's coordinator is gone; {AGAIN}") from error

    def _cores(self) -> int | None:
        import ray

        return int(ray.cluster_resources().get("CPU", 1)) if self.address else None

    def _died(self) -> set[str]:
        """What of a Ray of our own is gone."""
        import ray

        node = None if self.address else ray._private.worker._global_node
        return {kind for kind, _ in node.dead_processes()} & {"raylet", "gcs_server"} if node else set()

    def _abandon(self) -> None:
        import ray

        self._actors.abandon()
        self._coordinator, self._resources, self._started = None, {}, False
        ray.shutdown()

    def _check_ray(self) -> None:
        """Raises EngineError when a Ray of our own is gone; the next stage, or the next try, starts another."""
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


def has_token() -> bool:
    """Whether a cluster that asks for a token would get one from us; one that does not ask takes us in any case."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().exists()


def start_ray(address: str | None) -> None:
    """Start a quiet local Ray, or join a cluster. Raises InputError for what is no address, EngineRefused where the
    cluster cannot be joined.
    """
    import logging

    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return
    place = re.fullmatch(r"\[?([^\s/\[\]]+)\]?:(\d{1,5})", address or "")
    if address and address != "auto" and not place:
        raise InputError(f"--ray-address {address!r} is no cluster; expected HOST:PORT, or auto for this machine's")
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if place:
            socket.create_connection((place[1], int(place[2])), REACH_S).close()  # Ray itself would try for minutes
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
        for number, answer in ours.items():  # Ray's own would end us at once
            signal.signal(number, answer or signal.SIG_DFL)


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
