"""What a run may spend, what models cost, and what was spent."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from pydantic import Field

from synthmill.schemas.calls import Frozen

MILLION = 1_000_000


class Price(Frozen):
    """Money per million tokens, in any currency. Thinking counts as what was written."""

    prompt: float = Field(0, ge=0)
    completion: float = Field(0, ge=0)
    cached: float | None = Field(None, ge=0, description="what of a prompt came from a cache; default: as prompt")
    cache_write: float | None = Field(None, ge=0, description="what of it was written to one; default: as prompt")
    batch: float = Field(0.5, ge=0, description="what an answer of a batch costs, as a share of the price")

    def cost(self, counters: Mapping[str, float]) -> float:
        """Money for tokens. counters: by the names of schemas/usage.py; those that are missing are 0."""
        return (self.sum_up(counters) - (1 - self.batch) * self.sum_up(counters, "batch_")) / MILLION

    def sum_up(self, counters: Mapping[str, float], which: str = "") -> float:
        """Tokens times prices. which: "batch_" for those of batches alone."""
        prompt, completion, cached, cache_written = (
            counters.get(f"{which}{name}_tokens", 0) for name in ("prompt", "completion", "cached", "cache_written")
        )
        cached_price = self.prompt if self.cached is None else self.cached
        write_price = self.prompt if self.cache_write is None else self.cache_write
        fresh = prompt - cached - cache_written
        return fresh * self.prompt + cached * cached_price + cache_written * write_price + completion * self.completion


class Limits(Frozen):
    """No more than so much; what is not named has no limit. requests: answers asked for."""

    requests: int | None = Field(None, ge=0, strict=True)
    tokens: int | None = Field(None, ge=0, strict=True, description="prompt and completion")
    money: float | None = Field(None, ge=0, strict=True, description="by budget.prices")

    @property
    def any(self) -> bool:
        return any(limit is not None for limit in (self.requests, self.tokens, self.money))


class BudgetSettings(Limits):
    """A hard stop, for all runs of a job in this store together; what is made stays, and a larger budget goes on."""

    stages: dict[str, Limits] = Field(default_factory=dict, description="limits of single steps, by id")
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="engine (openai:gpt-4o*) -> {prompt, completion, cached, cache_write} per million tokens, {batch}",
    )

    @property
    def limited(self) -> bool:
        return self.any or any(limits.any for limits in self.stages.values())

    @property
    def counts_money(self) -> bool:
        return self.money is not None or any(limits.money is not None for limits in self.stages.values())

    def price(self, engine: str) -> Price | None:
        """The first one whose pattern fits the engine's name, with its kind or without."""
        names = engine, engine.partition(":")[2]
        return next(
            (price for pattern, price in self.prices.items() if any(fnmatchcase(n, pattern) for n in names)), None
        )


class Usage(Frozen):
    """What was spent."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(
            requests=self.requests + other.requests, tokens=self.tokens + other.tokens, money=self.money + other.money
        )

    def over(self, limits: Limits) -> str:
        """Which limit is met, in words; empty where none is."""
        for name in ("requests", "tokens", "money"):
            limit, spent = getattr(limits, name), getattr(self, name)
            if limit is not None and spent >= limit:
                return f"{spent:,.10g} of {limit:,.10g} {name}"
        return ""


def usage_of(prices: BudgetSettings, engine: str, requests: int, counters: Mapping[str, float]) -> Usage:
    """What answers of one engine took. counters: their tokens, by the names of schemas/usage.py."""
    price = prices.price(engine)
    tokens = int(counters.get("prompt_tokens", 0) + counters.get("completion_tokens", 0))
    return Usage(requests=requests, tokens=tokens, money=price.cost(counters) if price else 0.0)


def total(spent: Mapping[str, Usage]) -> Usage:
    """All stages together."""
    added = Usage()
    for usage in spent.values():
        added = added.plus(usage)
    return added
