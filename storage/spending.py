"""What was spent, by the call store, which also holds the answers of killed runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from synthmill.schemas.budget import BudgetSettings, Usage, usage_of
from synthmill.schemas.usage import COUNTERS
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import runs
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
