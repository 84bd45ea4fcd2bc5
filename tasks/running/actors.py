"""The Ray actors of a pool: who is up, who has to be replaced, and what they return or raise."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from schemas.errors import EngineError, EngineRefused, SynthmillError
from tasks.running.sharing import POLL_S

STARTS = 3  # workers that die one after the other before one is up
SAY_WAITING_S, ROOM_S = 10, 900  # how long nobody may be at work, for want of room on the cluster
PART_ATTEMPTS = 3  # a part whose worker died so often is taken to be the cause
CLOSE_S = 60
AGAIN = "run the same command again to continue"


@dataclass
class Slot:
    """An actor. coming: what tells where it runs, until that is known. pid: its process."""

    actor: Any
    coming: Any = None
    pid: int = 0


class ActorPool:
    """The actors of a pool. Those that Ray has placed are ready; one that died is asked for again."""

    def __init__(self, new_actor: Callable[[], Any], mark: str) -> None:
        """mark: a file that a worker must see, or nothing."""
        self._new_actor, self._mark = new_actor, mark
        self._slots: list[Slot] = []
        self._failed = 0

    def __len__(self) -> int:
        return len(self._slots)

    def ensure(self, count: int) -> None:
        """Have so many, or more; those that are there forget the stage before."""
        self._failed = 0
        while len(self._slots) < count:
            self._slots.append(Slot(self._new_actor()))
        for slot in self._slots:
            slot.coming = slot.actor.ready.remote(self._mark)

    def ready(self) -> list[Any]:
        """Those that are up. Raises InputError where one does not see the store, EngineError where none can start."""
        import ray
        from ray.exceptions import RayActorError

        for slot in [slot for slot in self._slots if slot.coming is not None]:
            if not ray.wait([slot.coming], timeout=0)[0]:
                continue
            try:
                slot.pid, slot.coming = got(slot.coming), None
                self._failed = 0
            except RayActorError as error:
                self._failed += not slot.pid
                if self._failed >= STARTS and not any(one.pid for one in self._slots):
                    said = " ".join(str(error).split())[-300:]
                    raise EngineError(f"no worker can start on this Ray: {said}; {AGAIN}") from error
                time.sleep(POLL_S)  # what cannot start is not started over and over
                self.replace(slot.actor)
        return [slot.actor for slot in self._slots if slot.coming is None]

    def settle(self, timeout_s: float, *, known: bool = False) -> None:
        """Wait until everybody is up who can be by then; known: of those who have been up before."""
        import ray

        until = time.monotonic() + timeout_s
        while coming := [s.coming for s in self._slots if s.coming is not None and (s.pid or not known)]:
            if time.monotonic() > until:
                return
            ray.wait(coming, timeout=POLL_S)
            self.ready()

    def replace(self, actor: Any) -> None:
        """Ask for another in the place of one that is dead, or out of reach."""
        import ray

        for place, slot in enumerate(self._slots):
            if slot.actor is actor:
                with suppress(Exception):
                    ray.kill(actor)
                self._slots[place] = made = Slot(self._new_actor())
                made.coming = made.actor.ready.remote(self._mark)

    def tell(self, said: str) -> None:
        for slot in self._slots:
            slot.actor.stop.remote(said)

    def end(self) -> None:
        """Let everybody seal its call store and free its engines, then end all."""
        import ray

        with suppress(Exception):
            closing = [slot.actor.close.remote() for slot in self._slots if slot.coming is None]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for slot in self._slots:
            with suppress(Exception):
                ray.kill(slot.actor)
        self._slots.clear()

    def abandon(self) -> None:
        """End the processes of a Ray on this machine that is gone itself."""
        for slot in self._slots:
            if slot.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGKILL)
        self._slots.clear()


class Idle:
    """Says once that nobody works for want of room, and gives up when that lasts."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        self._needed = ", ".join(f"{number:g} {name}" for name, number in resources.items())
        self._since, self._said = time.monotonic(), False

    def look(self, working: bool) -> None:
        if working:
            self._since = time.monotonic()
            return
        time.sleep(POLL_S / 10)
        for_s = time.monotonic() - self._since
        if for_s > ROOM_S:
            raise EngineRefused(f"Ray had no room for a worker ({self._needed}) for {for_s / 60:.0f} min; {AGAIN}")
        if for_s > SAY_WAITING_S and not self._said:
            self._said = True
            print(f"waiting for Ray to place a worker ({self._needed})", file=sys.stderr, flush=True)


def lost(what: str, lower: str) -> EngineError:
    return EngineError(f"{what} lost its worker {PART_ATTEMPTS} times (out of memory?); lower {lower}, then {AGAIN}")


def got(reference: Any) -> Any:
    """What a worker returned. Raises what it raised, RayActorError where it is gone, EngineError for the rest."""
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:  # first: it is also a RayActorError where another actor's death was its cause
        cause = error.cause if isinstance(error.cause, SynthmillError) else None
        raise (cause or SynthmillError(f"a worker failed: {error}")) from error
    except RayActorError:
        raise
    except RayError as error:
        raise EngineError(f"Ray lost some work: {error}; {AGAIN}") from error


def first_of(working: Mapping[Any, Any]) -> list[Any]:
    """The reference that is done first, if one is soon."""
    import ray

    return list(ray.wait(list(working), num_returns=1, timeout=POLL_S)[0]) if working else []
