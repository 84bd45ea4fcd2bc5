"""What ends a run before its rows do: a budget, and a share of dropped rows that says that something is wrong."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.artifacts import Manifest
from schemas.budget import Usage
from schemas.errors import LimitReached
from schemas.progress import Progress
from tasks.budget import Budget, Grant
from tasks.recipe import Recipe
from tasks.worker import Stage

FEWEST_ROWS = 100  # with fewer, a share says little
REASONS_TOLD = 3


@dataclass(frozen=True)
class RunLimits:
    """drops: the share of a stage's rows that may be dropped, where models are asked: other stages drop on purpose.
    spent: tells, at a stage's start, what the job has spent by then, by stage.
    """

    budget: Budget | None = None
    drops: float = 1.0
    spent: Callable[[], Mapping[str, Usage]] = dict

    def count_again(self) -> None:
        """Before a stage: other runs of the same job may have spent, too."""
        if self.budget:
            self.budget.reset(self.spent())

    def here(self) -> tuple[Any, ...]:
        """What a worker in this process is given."""
        if self.budget is None:
            return ()
        budget = self.budget

        async def lease(stage: str, wanted: int, used: Usage) -> Grant:
            return budget.lease(stage, wanted, used)

        return budget.settings, lease

    def reached(self, stage: Stage, progress: Progress) -> LimitReached | None:
        """Whether a stage under way drops too much."""
        if not isinstance(stage, Recipe):
            return None
        return self.too_many(stage.name, progress.rows, progress.dropped, progress.reasons)

    def check(self, stage: Stage, made: Manifest) -> None:
        """Raises LimitReached for a finished stage that dropped too much."""
        if isinstance(stage, Recipe):
            dropped = made.dropped
            if error := self.too_many(stage.name, made.rows_in, sum(dropped.values()), dropped):
                raise error

    def too_many(self, stage: str, rows: int, dropped: int, reasons: Mapping[str, int]) -> LimitReached | None:
        if rows < FEWEST_ROWS or dropped <= self.drops * rows:
            return None
        told = ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common(REASONS_TOLD))
        return LimitReached(
            f"{stage}: {dropped:,} of {rows:,} rows were dropped ({told}), more than the {self.drops:.0%} of "
            "drop_limit; what is made is kept: mend the cause, or raise drop_limit, and run the same command again"
        )


NO_LIMITS = RunLimits()
