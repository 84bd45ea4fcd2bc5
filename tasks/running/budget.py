"""The budget of a run: one coordinator that leases requests, in blocks, to everybody who sends.

A request is leased before it is sent, so requests never exceed their limit; tokens and money are known when an answer
is there, so they exceed theirs by what was in flight at most.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from schemas.budget import BudgetSettings, Limits, Usage, total, usage_of
from schemas.errors import LimitReached

Lease = Callable[[str, int, Usage, int], Awaitable["Grant"]]
"""Ask the coordinator, wherever it is: step, requests wanted; since the last time, what was used and how many sent."""
WAIT_S = 0.25
WAITS = 240  # for requests that another worker leased and has not sent yet


class Grant(NamedTuple):
    """How many requests may be sent; where it is none, why. held: others may give some back."""

    requests: int
    why: str = ""
    held: bool = False


class Budget:
    """The coordinator. spent: by step, what was spent before."""

    def __init__(self, settings: BudgetSettings, spent: Mapping[str, Usage]) -> None:
        self.settings = settings
        self.reset(spent)

    def reset(self, spent: Mapping[str, Usage]) -> None:
        """Count from here, while nobody holds a lease."""
        self.spent = dict(spent)  # requests count from when they are leased
        self.held = 0

    def lease(self, step: str, wanted: int, used: Usage, sent: int) -> Grant:
        """used: tokens and money since the last time; its requests are those given back."""
        before = self.spent.get(step, Usage())
        returned = used.model_copy(update={"requests": -used.requests})
        self.spent[step] = now = before.plus(returned)
        self.held = max(0, self.held - sent - used.requests)
        everything = total(self.spent)
        count = wanted
        for name, limits, usage in (
            ("the run's", self.settings, everything),
            (f"{step}'s", self.settings.stages.get(step, Limits()), now),
        ):
            if why := usage.over(limits):
                only_requests = not usage.model_copy(update={"requests": 0}).over(limits)
                return Grant(0, f"{name} budget is spent: {why}", held=only_requests and self.held > 0)
            if limits.requests is not None:
                count = min(count, limits.requests - usage.requests)
        self.spent[step] = now.plus(Usage(requests=count))
        self.held += count
        return Grant(count, held=self.held > count)


class Gate:
    """What one worker has leased for a step."""

    def __init__(self, step: str, settings: BudgetSettings, lease: Lease) -> None:
        self.step, self.settings, self._lease = step, settings, lease
        self.balance = 0
        self._used = Usage()
        self._sent = 0

    def take(self, count: int) -> bool:
        """Whether so many requests may be sent now; they are then taken."""
        if self.balance < count:
            return False
        self.balance -= count
        self._sent += count
        return True

    def answered(self, engine: str, prompt_tokens: int, completion_tokens: int) -> None:
        self._used = self._used.plus(usage_of(self.settings, engine, 0, prompt_tokens, completion_tokens))

    async def refill(self, wanted: int, least: int) -> None:
        """Lease more; waits while others hold what they have not sent. Raises LimitReached where `least` are not to be
        had.
        """
        for _ in range(WAITS):
            grant = await self._report(wanted, given_back=0)
            self.balance += grant.requests
            if self.balance >= least or not grant.held:
                break
            await self.close()  # two that wait for each other's share would wait for ever
            await asyncio.sleep(WAIT_S * random.uniform(0.5, 1.5))
        if self.balance < least:
            why = grant.why or f"{self.step} needs {least} requests at once, and fewer are left"
            raise LimitReached(f"{why}; everything answered is kept: raise the budget and run the same command again")

    async def close(self) -> None:
        """Give back what was not used."""
        await self.give_back(0)

    async def give_back(self, kept: int) -> None:
        """Give back all but so many."""
        unused = max(0, self.balance - kept)
        self.balance -= unused
        await self._report(0, given_back=unused)

    async def _report(self, wanted: int, given_back: int) -> Grant:
        used, self._used = self._used.plus(Usage(requests=given_back)), Usage()
        sent, self._sent = self._sent, 0
        return await self._lease(self.step, wanted, used, sent)


class RemoteLease:
    """Asks a coordinator that is an actor, from any other."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator

    async def __call__(self, step: str, wanted: int, used: Usage, sent: int) -> Grant:
        grant: Grant = await self.coordinator.lease.remote(step, wanted, used, sent)
        return grant
