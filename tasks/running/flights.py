"""What the driver keeps of rows under way: parts, flights, calls, and what was spent on them."""

import asyncio
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthmill.schemas.artifacts import Loss
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.rows import Dropped, Row
from synthmill.schemas.usage import COUNTERS, Facts, Tokens, counters_of

SPENT = ("sent", "reused", "failed", "prompt_tokens", "completion_tokens")
NOTHING_FURTHER = (0, 0, 0)
FURTHER = set(COUNTERS) - {"calls", "latency_s", "prompt_tokens", "completion_tokens"}


@dataclass(slots=True)
class Spent:
    """Requests and tokens of one role. reused: answers that came from the call store. The others are those of
    schemas/usage.py.
    """

    sent: int = 0
    reused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    further: dict[str, int] = field(default_factory=dict)

    def count(
        self,
        completion: Completion,
        tokens: Tokens,
        asked_again: bool = False,
        repeated: bool = False,
        batch: bool = False,
    ) -> None:
        """Count an answer that was sent for."""
        self.sent += 1
        self.failed += completion.error is not None
        self.prompt_tokens += tokens.prompt_tokens
        self.completion_tokens += tokens.completion_tokens
        if asked_again or repeated or batch or completion.estimated or tokens[2:] != NOTHING_FURTHER:
            counted = counters_of(tokens, 0.0, Facts(completion.estimated, asked_again, repeated, batch))
            for name, number in zip(COUNTERS, counted, strict=False):
                if number and name in FURTHER:
                    self.further[name] = self.further.get(name, 0) + int(number)

    def numbers(self) -> dict[str, int]:
        """All counters by name; of the further ones those that are not 0."""
        return {**{name: getattr(self, name) for name in SPENT}, **self.further}

    def add(self, spent: "Spent") -> None:
        for name in SPENT:
            setattr(self, name, getattr(self, name) + getattr(spent, name))
        for name, number in spent.further.items():
            self.further[name] = self.further.get(name, 0) + number


def sum_spent(several: Iterable[Mapping[str, Spent]]) -> dict[str, Spent]:
    """What was spent in several parts, by role."""
    total: dict[str, Spent] = {}
    for spent in several:
        for role, numbers in spent.items():
            total.setdefault(role, Spent()).add(numbers)
    return total


@dataclass(slots=True)
class PartResult:
    """A part's rows and drops, in the order of their source rows. calls: per row, the keys of the answers it was made
    from. lost: by call key, the answers that a failing engine lost.
    """

    rows: list[Row]
    calls: list[list[str]]
    dropped: list[Dropped]
    spent: dict[str, Spent]
    lost: dict[str, Loss] = field(default_factory=dict)


@dataclass(slots=True)
class Part:
    """A part under way. outcomes: by place, a row with the keys of its calls; None until it is there."""

    outcomes: list[tuple[Row | Dropped, list[str]] | None]
    rows_left: int
    done: "asyncio.Future[None]"
    lost_before: Mapping[bytes, Loss]
    spent: dict[str, Spent] = field(default_factory=dict)
    lost: dict[str, Loss] = field(default_factory=dict)

    def spent_by(self, role: str) -> Spent:
        if (spent := self.spent.get(role)) is None:
            spent = self.spent[role] = Spent()
        return spent


@dataclass(slots=True, eq=False)
class Flight:
    """A row under way: its generator, the answers of its current step, and how many of them are missing."""

    row: Row
    place: int
    part: Part
    steps: Any
    requests: list[Request] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    answers: list[Completion | None] = field(default_factory=list)
    missing: int = 0
    calls: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """One or more samples of one request, asked together. waiters: by key, the flights and places that wait for the
    answer; a key that is stored already has none. repeated: the keys whose answers turned out to be stored already.
    """

    request: Request
    request_hash: bytes
    request_json: bytes
    samples: list[int]
    keys: list[bytes]
    waiters: dict[bytes, list[tuple[Flight, int]]]
    repeated: set[bytes] = field(default_factory=set)

    def facts(self, engine: str, stage: str, step: str) -> dict[str, Any]:
        """What is stored with its answers."""
        facts = {"engine": engine, "role": self.request.role, "stage": stage, "step": step}
        return {**facts, "asked_again": True} if self.request.asked_again else facts


def content_ids(request: Request) -> tuple[int, ...]:
    """The identities of what a request asks; equal for samples of one request."""
    form = id(request.schema_), id(request.choice), id(request.tools)
    return id(request.messages), id(request.sampling), *form, id(request.scored), int(request.open_turn)


def origin_of(error: Exception) -> str:
    """Where an error was raised, as FILE:LINE."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
