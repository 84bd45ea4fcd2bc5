"""An engine's lane in the driver: its calls that are not sent yet, and the order in which they go out."""

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

from synthmill.schemas.calls import Request
from synthmill.tasks.engines.engine import Engine, caches_prefixes
from synthmill.tasks.running.flights import Call

LOOK_AHEAD = 1024
"""Requests beyond its window that wait for an engine with a cache of prefixes, to be put in order."""


class CallQueue:
    """Calls in the order they came. For an engine that caches prefixes, the calls with which rows begin are sorted by
    their question, so that prompts that begin alike follow each other; those of rows under way go before them.

    They are sorted a sweep at a time, up and down in turn: a sweep begins with the prefix that the last one ended with,
    and a call waits at most for one sweep before its own.
    """

    def __init__(self, by_prefix: bool = False) -> None:
        self._by_prefix = by_prefix
        self._next: deque[Call] = deque()
        self._sweep: deque[Call] = deque()
        self._beginnings: list[Call] = []
        self._downwards = False

    def __len__(self) -> int:
        return len(self._next) + len(self._sweep) + len(self._beginnings)

    def add(self, call: Call, begins: bool) -> None:
        """begins: whether nothing was answered to its row before."""
        (self._beginnings if self._by_prefix and begins else self._next).append(call)

    def first(self, least: int = 1) -> Call | None:
        """The call to send next. least: how many calls make a sweep."""
        if not self._next and not self._sweep and len(self._beginnings) >= least:
            self._sweep.extend(sorted(self._beginnings, key=attrgetter("request_json"), reverse=self._downwards))
            self._beginnings.clear()
            self._downwards = not self._downwards
        return next((calls[0] for calls in (self._next, self._sweep) if calls), None)

    def take(self) -> Call:
        """Remove the first call."""
        return (self._next or self._sweep).popleft()

    def clear(self) -> None:
        for calls in (self._next, self._sweep, self._beginnings):
            calls.clear()


@dataclass(slots=True)
class Lane:
    """An engine's requests. heard_at: when it last answered or, if later, got the first request now in flight.
    answered_request: a request that has a stored answer. in_batches: whether its answers cost what a batch's do.
    """

    engine: Engine
    queue: CallQueue = field(init=False)
    in_flight: int = 0
    heard_at: float = 0.0
    answered_request: Request | None = None
    in_batches: bool = False

    def __post_init__(self) -> None:
        self.queue = CallQueue(caches_prefixes(self.engine))
