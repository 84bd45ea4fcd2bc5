"""The budget of a run: one coordinator that leases requests, in blocks, to everybody who sends.

A request is leased before it is sent, so requests never exceed their limit; tokens and money are known when an answer
is there, so they exceed theirs by what was in flight at most.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from schemas.budget import BudgetSettings, Limits, Usage, total, usage_of
from schemas.errors import LimitReached

Lease = Callable[[str, int, Usage], Awaitable["Grant"]]
"""Ask the coordinator, wherever it is: stage, requests wanted, what was used since the last time."""


class Grant(NamedTuple):
    """How many requests may be sent; where it is none, why."""

    requests: int
    why: str = ""


class Budget:
    """The coordinator. spent: by stage, what was spent before."""

    def __init__(self, settings: BudgetSettings, spent: Mapping[str, Usage]) -> None:
        self.settings = settings
        self.reset(spent)

    def reset(self, spent: Mapping[str, Usage]) -> None:
        """Count from here, while nobody holds a lease."""
        self.spent = dict(spent)  # requests count from when they are leased

    def lease(self, stage: str, wanted: int, used: Usage) -> Grant:
        """used: tokens and money since the last time; its requests are those given back."""
        before = self.spent.get(stage, Usage())
        returned = used.model_copy(update={"requests": -used.requests})
        self.spent[stage] = now = before.plus(returned)
        everything = total(self.spent)
        count = wanted
        mine = self.settings.stages.get(stage, Limits())
        for name, limits, usage in (("the run's", self.settings, everything), (f"{stage}'s", mine, now)):
            if why := usage.over(limits):
                return Grant(0, f"{name} budget is spent: {why}")
            if limits.requests is not None:
                count = min(count, limits.requests - usage.requests)
        self.spent[stage] = now.plus(Usage(requests=count))
        return Grant(count)


class Gate:
    """What one worker has leased for a stage."""

    def __init__(self, stage: str, settings: BudgetSettings, lease: Lease) -> None:
        self.stage, self.settings, self._lease = stage, settings, lease
        self.balance = 0
        self._used = Usage()

    def take(self, count: int) -> bool:
        """Whether so many requests may be sent now; they are then taken."""
        if self.balance < count:
            return False
        self.balance -= count
        return True

    def answered(self, engine: str, prompt_tokens: int, completion_tokens: int) -> None:
        self._used = self._used.plus(usage_of(self.settings, engine, 0, prompt_tokens, completion_tokens))

    async def refill(self, wanted: int, least: int) -> None:
        """Lease more. Raises LimitReached where not even `least` are to be had."""
        used, self._used = self._used, Usage()
        grant = await self._lease(self.stage, wanted, used)
        self.balance += grant.requests
        if self.balance < least:
            why = grant.why or f"{self.stage} needs {least} requests at once, and fewer are left"
            raise LimitReached(f"{why}; everything answered is kept: raise the budget and run the same command again")

    async def close(self) -> None:
        """Give back what was not used."""
        used = self._used.plus(Usage(requests=self.balance))
        self._used, self.balance = Usage(), 0
        await self._lease(self.stage, 0, used)


class RemoteLease:
    """Asks a coordinator that is an actor, from any other."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator

    async def __call__(self, stage: str, wanted: int, used: Usage) -> Grant:
        grant: Grant = await self.coordinator.lease.remote(stage, wanted, used)
        return grant
