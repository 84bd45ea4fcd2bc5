"""What a step will cost: at most, by what its requests allow, and about, by what earlier calls took."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from synthmill.schemas.bill import added_up, money_text
from synthmill.schemas.budget import BudgetSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import runs
from synthmill.storage.spending import spending_in
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Planned

Player = tuple[str, str, str]
"""A stage, a role and the engine that plays it."""


@dataclass(frozen=True)
class Measured:
    """What a store knows. per_player: what all calls of a player add up to; per_row: calls per row of a stage, by role,
    as the last run that asked counted them.
    """

    per_player: Mapping[Player, Mapping[str, float]] = field(default_factory=dict)
    per_row: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """Money for a step. most: the most that its answers may cost, without the prompts; least, expected_most: what as
    many calls as before, and as many as there may be, cost at the tokens that earlier calls took.
    """

    most: float
    least: float | None = None
    expected_most: float | None = None

    def __str__(self) -> str:
        if self.least is None or self.expected_most is None:
            return f"<= {money_text(self.most)} + prompts"
        least, most = money_text(self.least), money_text(self.expected_most)
        return least if least == most else f"{least} to {most}"

    def plus(self, other: "Forecast") -> "Forecast":
        """Both together; nothing is expected where one of them was not measured."""
        sums = []
        for own_sum, other_sum in ((self.least, other.least), (self.expected_most, other.expected_most)):
            sums.append(None if own_sum is None or other_sum is None else own_sum + other_sum)
        return Forecast(self.most + other.most, *sums)


NOTHING = Forecast(0.0, 0.0, 0.0)


def measure(store: Store) -> Measured:
    """What earlier runs, previews among them, took in a store; nothing where there is none."""
    per_player: dict[Player, dict[str, float]] = {}
    for spending in spending_in(store.calls):
        player = spending.stage, spending.role, spending.engine
        per_player[player] = added_up([per_player.get(player, {}), spending.counters])
    per_row: dict[str, dict[str, float]] = {}
    for run in runs(store):
        for step in run.stages:
            calls = Counter({role: n.get("sent", 0) + n.get("reused", 0) for role, n in step.spent.items()})
            if step.rows_in and calls.total():
                per_row[step.stage] = {role: count / step.rows_in for role, count in calls.items()}
    return Measured(per_player, per_row)


def forecast(planned: Planned, rows: int, prices: BudgetSettings, measured: Measured) -> Forecast | None:
    """What a step that asks models costs for so many rows; None where none of its engines has a price."""
    stage = planned.stage
    if not isinstance(stage, Recipe):
        return None
    engines: dict[str, str] = planned.identity["engines"]
    priced = {role: price for role, engine in engines.items() if (price := prices.price(engine))}
    if not priced:
        return None
    calls = rows * stage.requests_per_row()
    tokens = most_tokens(planned, rows)
    most = max(price.cost({"completion_tokens": tokens}) for price in priced.values())
    per_row = {role: n for role, n in measured.per_row.get(stage.name, {}).items() if role in engines and n}
    per_call: dict[str, float] = {}
    for role in per_row:
        counters = measured.per_player.get((stage.name, role, engines[role]), {})
        if counters.get("calls"):
            price = priced.get(role)
            per_call[role] = price.cost(counters) / counters["calls"] if price else 0.0
    if not per_row or per_call.keys() != per_row.keys():
        return Forecast(most)
    one_row = sum(count * per_call[role] for role, count in per_row.items())
    least = rows * one_row
    return Forecast(most, least, max(least, calls * one_row / sum(per_row.values())))


def most_tokens(planned: Planned, rows: int) -> int:
    """The most tokens that a step's answers may have, thinking included where it has a room of its own."""
    stage = planned.stage
    if not isinstance(stage, Recipe):
        return 0
    thinking = max((settings.thinking.tokens or 0 for settings in planned.roles.values()), default=0)
    return rows * (stage.tokens_per_row() + stage.requests_per_row() * thinking)
