"""What was spent, by the call store, which also holds the answers of killed runs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from synthmill.schemas.bill import added_up
from synthmill.schemas.budget import BudgetSettings, Usage, usage_of
from synthmill.schemas.usage import COUNTERS
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import RunRecord, runs
from synthmill.storage.segments import spent_in


class Spending(NamedTuple):
    """What the answers of one engine in one role of one step of one run add up to; counters: by COUNTERS' names."""

    run: str
    stage: str
    step: str
    role: str
    engine: str
    counters: Mapping[str, float]


def spending_in(folder: Path) -> Iterator[Spending]:
    """The spending of a folder of calls, from its indexes and what is not indexed yet."""
    for origin, numbers in sorted(spent_in(folder).items()):
        yield Spending(*origin, dict(zip(COUNTERS, numbers, strict=True)))


def spent_by(store: Store, job: str, prices: BudgetSettings) -> dict[str, Usage]:
    """What all runs of a job have spent, by step."""
    run_ids = {run.id for run in runs(store) if run.job == job}
    usage: dict[str, Usage] = {}
    for spending in spending_in(store.calls) if run_ids else ():
        if spending.run in run_ids:
            cost = usage_of(prices, spending.engine, int(spending.counters["calls"]), spending.counters)
            usage[spending.step] = usage.get(spending.step, Usage()).plus(cost)
    return usage


def bill_of(store: Store) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """What all runs spent, by step, role and engine, `money` by the prices that each run was given. `failed`: requests
    that failed, as runs that ended have counted them; no answer of them is in the call store.
    """
    prices: dict[str, BudgetSettings] = {}
    failed: Counter[tuple[str, str]] = Counter()
    for run in runs(store):
        prices[run.id] = prices_of(run)
        for step in run.stages:
            for role, numbers in step.spent.items():
                failed[step.step_id, role] += numbers.get("failed", 0)
    lines: dict[tuple[str, str, str], dict[str, float]] = {}
    for spending in spending_in(store.calls):
        budget = prices.get(spending.run, BudgetSettings())
        money = usage_of(budget, spending.engine, 0, spending.counters).money
        line = spending.step, spending.role, spending.engine
        lines[line] = added_up([lines.get(line, {}), spending.counters, {"money": money}])
    for (step_id, role, engine), counters in sorted(lines.items()):
        yield step_id, role, engine, {**counters, "failed": failed.pop((step_id, role), 0)}
    for (step_id, role), number in sorted(failed.items()):
        if number:
            yield step_id, role, "", {"money": 0.0, "failed": number}


def prices_of(run: RunRecord) -> BudgetSettings:
    """The prices that a run was given; none where its record is of a version that writes them otherwise."""
    try:
        return BudgetSettings.model_validate({"prices": (run.settings.get("budget") or {}).get("prices") or {}})
    except (ValidationError, AttributeError):
        return BudgetSettings()
