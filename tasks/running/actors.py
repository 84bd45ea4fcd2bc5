"""The Ray actors of a pool, the schedule of the parts they make, and the progress they report."""

import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from synthmill.schemas.errors import EngineError, EngineRefused, SynthmillError
from synthmill.schemas.progress import Progress
from synthmill.tasks.running.job import Job
from synthmill.tasks.running.sharing import POLL_S, sum_progress

STARTS = 3  # workers that die one after the other before one is up
SAY_WAITING_S, ROOM_S = 10, 900  # how long all workers may wait for room on the cluster: before a notice, at most
PART_ATTEMPTS = 3  # deaths of its worker after which a part counts as their cause
CLOSE_S, LAST_REPORT_S = 60, 5
AGAIN = "run the same command again to continue"


@dataclass
class Slot:
    """An actor. pending: the reference to its process id, until Ray has placed it. pid: its process."""

    actor: Any
    pending: Any = None
    pid: int = 0


class ActorPool:
    """The actors of a pool: ready once Ray has placed them, replaced when they die."""

    def __init__(self, new_actor: Callable[[], Any], mark: str) -> None:
        """mark: the path of a file that every worker must see; may be empty."""
        self._new_actor, self._mark = new_actor, mark
        self._slots: list[Slot] = []
        self._failed_starts = 0

    def __len__(self) -> int:
        return len(self._slots)

    def ensure(self, count: int) -> None:
        """Have at least `count` actors; those that run already forget the stage before."""
        self._failed_starts = 0
        while len(self._slots) < count:
            self._slots.append(Slot(self._new_actor()))
        for slot in self._slots:
            slot.pending = slot.actor.ready.remote(self._mark)

    def ready(self) -> list[Any]:
        """The actors that are up. Raises InputError where one does not see the store, EngineError where none starts."""
        import ray
        from ray.exceptions import RayActorError

        for slot in [slot for slot in self._slots if slot.pending is not None]:
            if not ray.wait([slot.pending], timeout=0)[0]:
                continue
            try:
                slot.pid, slot.pending = fetch_result(slot.pending), None
                self._failed_starts = 0
            except RayActorError as error:
                self._failed_starts += not slot.pid
                if self._failed_starts >= STARTS and not any(other.pid for other in self._slots):
                    cause = " ".join(str(error).split())[-300:]
                    raise EngineError(f"no worker can start on this Ray: {cause}; {AGAIN}") from error
                time.sleep(POLL_S)  # between two failed starts
                self.replace(slot.actor)
        return [slot.actor for slot in self._slots if slot.pending is None]

    @property
    def starting(self) -> list[Any]:
        """The references of those that are not up yet."""
        return [slot.pending for slot in self._slots if slot.pending is not None]

    def wait_until_ready(self, timeout_s: float, *, earlier_only: bool = False) -> None:
        """Wait until all actors are up, at most timeout_s. earlier_only: wait only for those that were up before."""
        import ray

        deadline = time.monotonic() + timeout_s
        while pending := [s.pending for s in self._slots if s.pending is not None and (s.pid or not earlier_only)]:
            if time.monotonic() > deadline:
                return
            ray.wait(pending, timeout=POLL_S)
            self.ready()

    def replace(self, actor: Any) -> None:
        """Start another actor in the place of one that is dead, or out of reach."""
        import ray

        for place, slot in enumerate(self._slots):
            if slot.actor is actor:
                with suppress(Exception):
                    ray.kill(actor)
                self._slots[place] = replacement = Slot(self._new_actor())
                replacement.pending = replacement.actor.ready.remote(self._mark)

    def stop(self, why: str) -> None:
        """Let every actor send nothing more; what is in flight is still stored."""
        for slot in self._slots:
            slot.actor.stop.remote(why)

    def end(self) -> None:
        """Let every actor seal its call store and free its engines, then end all of them."""
        import ray

        with suppress(Exception):
            closing = [slot.actor.close.remote() for slot in self._slots if slot.pending is None]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for slot in self._slots:
            with suppress(Exception):
                ray.kill(slot.actor)
        self._slots.clear()

    def abandon(self) -> None:
        """Kill the worker processes of a local Ray that died and left them behind."""
        for slot in self._slots:
            if slot.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGKILL)
        self._slots.clear()


class Schedule:
    """A stage's parts: those that wait, those in work with their actors, and the error that ends the stage early."""

    def __init__(self, jobs: Sequence[Job], parts_ahead: int) -> None:
        """parts_ahead: the most parts that one actor holds at once."""
        self.waiting = deque(jobs)
        self.working: dict[Any, tuple[Any, Job]] = {}  # by reference to the seal: its actor and part
        self.failure: SynthmillError | None = None
        self._parts_ahead = parts_ahead
        self._attempts: Counter[str] = Counter()

    @property
    def unfinished(self) -> bool:
        return bool(self.working or (self.waiting and self.failure is None))

    def parts_of(self, actor: Any) -> int:
        """How many parts an actor holds."""
        return sum(holder is actor for holder, _ in self.working.values())

    def assign(self, actors: Sequence[Any], start: Callable[[Any, Job, bool], Any]) -> None:
        """Give the next parts to the actors with the fewest. start: (actor, part, is it a retry) -> reference."""
        while self.waiting and actors and self.failure is None:
            actor = min(actors, key=self.parts_of)
            if self.parts_of(actor) >= self._parts_ahead:
                break
            job = self.waiting.popleft()
            self._attempts[job.key] += 1
            self.working[start(actor, job, self._attempts[job.key] > 1)] = (actor, job)

    def retry(self, job: Job) -> bool:
        """Put a part whose actor died first in line; False when it has used up its attempts."""
        self.waiting.appendleft(job)
        return self._attempts[job.key] < PART_ATTEMPTS


class ProgressReports:
    """How far the actors are with a step; each is asked again once it has answered."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._asked: dict[Any, Any] = {}  # by reference to the report: its actor
        self._latest: dict[Any, Progress] = {}  # by actor
        self._polled_at = time.monotonic()

    def due(self) -> bool:
        """Whether POLL_S have passed since this was last true."""
        if time.monotonic() - self._polled_at <= POLL_S:
            return False
        self._polled_at = time.monotonic()
        return True

    def collect(self) -> Progress:
        """The sum of the latest reports; waits for none."""
        import ray
        from ray.exceptions import RayError

        for reference in [reference for reference in self._asked if ray.wait([reference], timeout=0)[0]]:
            with suppress(RayError):
                self._latest[self._asked[reference]] = ray.get(reference)
            del self._asked[reference]
        return sum_progress(list(self._latest.values()))

    def ask(self, actors: Sequence[Any]) -> None:
        """Ask the actors that have no report under way."""
        answered = [actor for actor in actors if actor not in self._asked.values()]
        self._asked.update((actor.progress.remote(self._step), actor) for actor in answered)

    def collect_last(self, actors: Sequence[Any]) -> Progress:
        """Ask all actors once more; waits LAST_REPORT_S for their reports."""
        import ray
        from ray.exceptions import RayError

        last = {actor.progress.remote(self._step): actor for actor in actors}
        for reference in ray.wait(list(last), num_returns=len(last), timeout=LAST_REPORT_S)[0] if last else ():
            with suppress(RayError):
                self._latest[last[reference]] = ray.get(reference)
        return sum_progress(list(self._latest.values()))


class WaitForRoom:
    """Prints one notice when no worker has room on the cluster for SAY_WAITING_S; raises after ROOM_S."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        self._resources = ", ".join(f"{number:g} {name}" for name, number in resources.items())
        self._idle_since, self._noticed = time.monotonic(), False

    def check(self, working: bool, starting: Sequence[Any] = ()) -> None:
        """working: whether any worker has work; where none has, the next of those that start is waited for a moment.
        Raises EngineRefused.
        """
        if working:
            self._idle_since = time.monotonic()
            return
        wait_a_moment(starting)
        idle_s = time.monotonic() - self._idle_since
        if idle_s > ROOM_S:
            raise EngineRefused(f"Ray had no room for a worker ({self._resources}) for {idle_s / 60:.0f} min; {AGAIN}")
        if idle_s > SAY_WAITING_S and not self._noticed:
            self._noticed = True
            print(f"waiting for Ray to place a worker ({self._resources})", file=sys.stderr, flush=True)


def worker_lost(what: str, lower: str) -> EngineError:
    """what: the work that ended its workers. lower: the settings to lower."""
    return EngineError(f"{what} lost its worker {PART_ATTEMPTS} times (out of memory?); lower {lower}, then {AGAIN}")


def fetch_result(reference: Any) -> Any:
    """What a worker returned. Raises what it raised, RayActorError where it is gone, EngineError for the rest."""
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:  # first: it is also a RayActorError where another actor's death caused it
        cause = error.cause if isinstance(error.cause, SynthmillError) else None
        raise (cause or SynthmillError(f"a worker failed: {error}")) from error
    except RayActorError:
        raise
    except RayError as error:
        raise EngineError(f"Ray lost some work: {error}; {AGAIN}") from error


def wait_a_moment(pending: Sequence[Any]) -> None:
    """Until one of some references is done, a fraction of a second at most."""
    import ray

    if pending:
        ray.wait(list(pending), timeout=POLL_S / 10)
    else:
        time.sleep(POLL_S / 10)


def first_done(working: Mapping[Any, Any]) -> list[Any]:
    """The first reference that is done within POLL_S, or none."""
    import ray

    return list(ray.wait(list(working), num_returns=1, timeout=POLL_S)[0]) if working else []
