"""The budget of a run: one coordinator leases requests, in blocks, to every worker that sends.

A request is leased before it is sent, so requests never exceed their limit. Tokens and money are known once an answer
is there, so they exceed their limits by what was in flight at most.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from synthmill.schemas.budget import BudgetSettings, Limits, Usage, total, usage_of
from synthmill.schemas.errors import LimitReached
from synthmill.schemas.usage import COUNTERS, Facts, Tokens, counters_of

Lease = Callable[[str, int, Usage, int], Awaitable["Grant"]]
"""Asks the coordinator: step, requests to lease, usage since the last call, requests sent since the last call."""
WAIT_S = 0.25
WAITS = 240  # at most, for requests that another worker leased and has not sent yet


class Grant(NamedTuple):
    """How many requests may be sent, and why none may. held: other workers hold requests and may give some back."""

    requests: int
    why: str = ""
    held: bool = False


class Budget:
    """The coordinator. spent: what each step has spent before."""

    def __init__(self, settings: BudgetSettings, spent: Mapping[str, Usage]) -> None:
        self.settings = settings
        self.reset(spent)

    def reset(self, spent: Mapping[str, Usage]) -> None:
        """Start counting from `spent`; no worker may hold a lease now."""
        self.spent = dict(spent)  # a request counts once it is leased
        self.held = 0

    def lease(self, step: str, requests: int, used: Usage, sent: int) -> Grant:
        """used: tokens and money since the last call, and as its requests those that are given back. sent: requests
        sent since then.
        """
        change = used.model_copy(update={"requests": -used.requests})
        self.spent[step] = step_usage = self.spent.get(step, Usage()).plus(change)
        self.held = max(0, self.held - sent - used.requests)
        for name, limits, usage in (
            ("the run's", self.settings, total(self.spent)),
            (f"{step}'s", self.settings.stages.get(step, Limits()), step_usage),
        ):
            if why := usage.over(limits):
                only_requests = not usage.model_copy(update={"requests": 0}).over(limits)
                return Grant(0, f"{name} budget is spent: {why}", held=only_requests and self.held > 0)
            if limits.requests is not None:
                requests = min(requests, limits.requests - usage.requests)
        self.spent[step] = step_usage.plus(Usage(requests=requests))
        self.held += requests
        return Grant(requests, held=self.held > requests)


class Gate:
    """One worker's leased requests for a step. balance: those that it has not sent yet."""

    def __init__(self, step: str, settings: BudgetSettings, lease: Lease) -> None:
        self.step, self.settings, self._lease = step, settings, lease
        self.balance = 0
        self._counted: dict[tuple[str, bool], Tokens] = {}  # by engine, and whether it was asked in batches
        self._sent = 0

    def take(self, count: int) -> bool:
        """Take `count` requests from the balance, to send them; False, and nothing taken, where it is too low."""
        if self.balance < count:
            return False
        self.balance -= count
        self._sent += count
        return True

    def count_answer(self, engine: str, tokens: Tokens, batch: bool = False) -> None:
        """Count what an answer took; the next call to the coordinator tells it."""
        self._counted[engine, batch] = self._counted.get((engine, batch), Tokens()).plus(tokens)

    async def refill(self, requests: int, least: int) -> None:
        """Lease more, and wait while other workers hold requests. Raises LimitReached where fewer than `least` are
        left.
        """
        for _ in range(WAITS):
            grant = await self._report(requests, returned=0)
            self.balance += grant.requests
            if self.balance >= least or not grant.held:
                break
            await self.close()  # two workers that wait for each other's requests would wait for ever
            await asyncio.sleep(WAIT_S * random.uniform(0.5, 1.5))
        if self.balance < least:
            why = grant.why or f"{self.step} needs {least} requests at once, and fewer are left"
            raise LimitReached(f"{why}; everything answered is kept: raise the budget and run the same command again")

    async def close(self) -> None:
        """Give back all requests that were not sent."""
        await self.give_back(0)

    async def give_back(self, kept: int) -> None:
        """Give back all but `kept` of the requests that were not sent."""
        unused = max(0, self.balance - kept)
        self.balance -= unused
        await self._report(0, returned=unused)

    async def _report(self, requests: int, returned: int) -> Grant:
        used = Usage(requests=returned)
        for (engine, batch), tokens in self._counted.items():
            counters = dict(zip(COUNTERS, counters_of(tokens, 0.0, Facts(batch=batch)), strict=False))
            used = used.plus(usage_of(self.settings, engine, 0, counters))
        self._counted.clear()
        sent, self._sent = self._sent, 0
        return await self._lease(self.step, requests, used, sent)


class RemoteLease:
    """A Lease whose coordinator is a Ray actor."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator

    async def __call__(self, step: str, requests: int, used: Usage, sent: int) -> Grant:
        grant: Grant = await self.coordinator.lease.remote(step, requests, used, sent)
        return grant
