"""The Ray actors of a pool: who is up, who has to be replaced, and what they return or raise."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from schemas.errors import EngineError, SynthmillError
from tasks.sharing import POLL_S

STARTS = 3  # workers that die one after the other before one is up
SAY_WAITING_S, ROOM_S = 10, 900  # how long nobody may be at work, for want of room on the cluster
PART_ATTEMPTS = 3  # a part whose worker died so often is taken to be the cause
AGAIN = "run the same command again to continue"


@dataclass
class Hand:
    """An actor. coming: what tells where it runs, until that is known. pid: its process."""

    actor: Any
    coming: Any = None
    pid: int = 0


class Crew:
    """The actors of a pool. Those that Ray has placed are ready; one that died is asked for again."""

    def __init__(self, hire: Callable[[], Any], mark: str) -> None:
        """mark: a file that a worker must see, or nothing."""
        self._hire, self._mark = hire, mark
        self._hands: list[Hand] = []
        self._failed = 0

    def call_up(self, count: int) -> None:
        """Have so many, or more; those that are there forget the stage before."""
        while len(self._hands) < count:
            self._hands.append(Hand(self._hire()))
        for hand in self._hands:
            hand.coming = hand.actor.ready.remote(self._mark)

    def ready(self) -> list[Any]:
        """Those that are up. Raises InputError where one does not see the store, EngineError where none can start."""
        import ray
        from ray.exceptions import RayActorError

        for hand in [hand for hand in self._hands if hand.coming is not None]:
            if not ray.wait([hand.coming], timeout=0)[0]:
                continue
            try:
                hand.pid, hand.coming = got(hand.coming), None
                self._failed = 0
            except RayActorError as error:
                self._failed += not hand.pid
                if self._failed == STARTS:
                    said = " ".join(str(error).split())[-300:]
                    raise EngineError(f"no worker can start on this Ray: {said}; {AGAIN}") from error
                self.replace(hand.actor)
        return [hand.actor for hand in self._hands if hand.coming is None]

    def settle(self, timeout_s: float) -> None:
        """Wait until everybody is up who can be by then."""
        import ray

        until = time.monotonic() + timeout_s
        while coming := [hand.coming for hand in self._hands if hand.coming is not None]:
            if time.monotonic() > until:
                return
            ray.wait(coming, timeout=POLL_S)
            self.ready()

    def replace(self, actor: Any) -> None:
        """Ask for another in the place of one that is dead, or out of reach."""
        import ray

        for place, hand in enumerate(self._hands):
            if hand.actor is actor:
                with suppress(Exception):
                    ray.kill(actor)
                self._hands[place] = made = Hand(self._hire())
                made.coming = made.actor.ready.remote(self._mark)

    def tell(self, said: str) -> None:
        for hand in self._hands:
            hand.actor.stop.remote(said)

    def end(self) -> None:
        """Let everybody seal its call store and free its engines, then end all."""
        import ray

        with suppress(Exception):
            closing = [hand.actor.close.remote() for hand in self._hands if hand.coming is None]
            ray.wait(closing, num_returns=len(closing), timeout=60)
        for hand in self._hands:
            with suppress(Exception):
                ray.kill(hand.actor)
        self._hands.clear()

    def abandon(self) -> None:
        """End the processes of a Ray on this machine that is gone itself."""
        for hand in self._hands:
            if hand.pid:
                with suppress(ProcessLookupError):
                    os.kill(hand.pid, signal.SIGKILL)
        self._hands.clear()


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
            raise EngineError(f"Ray had no room for a worker ({self._needed}) for {for_s / 60:.0f} min; {AGAIN}")
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
    except RayActorError:
        raise
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, SynthmillError) else None
        raise (cause or SynthmillError(f"a worker failed: {error}")) from error
    except RayError as error:
        raise EngineError(f"Ray lost some work: {error}; {AGAIN}") from error


def first_of(working: Mapping[Any, Any]) -> list[Any]:
    """The reference that is done first, if one is soon."""
    import ray

    return list(ray.wait(list(working), num_returns=1, timeout=POLL_S)[0]) if working else []
