"""What a run may spend, what models cost, and what was spent."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from pydantic import Field

from synthmill.schemas.calls import Frozen

MILLION = 1_000_000


class Price(Frozen):
    """Money per million tokens, in any currency."""

    prompt: float = Field(0, ge=0)
    completion: float = Field(0, ge=0)


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
        default_factory=dict, description="engine (openai:gpt-4o*) -> {prompt, completion} per million tokens"
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


def usage_of(prices: BudgetSettings, engine: str, requests: int, prompt_tokens: int, completion_tokens: int) -> Usage:
    """What answers of one engine cost."""
    price = prices.price(engine) or Price()
    money = (prompt_tokens * price.prompt + completion_tokens * price.completion) / MILLION
    return Usage(requests=requests, tokens=prompt_tokens + completion_tokens, money=money)


def total(spent: Mapping[str, Usage]) -> Usage:
    """All stages together."""
    added = Usage()
    for usage in spent.values():
        added = added.plus(usage)
    return added
