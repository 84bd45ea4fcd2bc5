"""What ends a run before its rows do: a budget, and a share of dropped rows that says that something is wrong."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.artifacts import Manifest
from schemas.budget import Usage
from schemas.errors import LimitReached
from schemas.progress import Progress
from tasks.recipe import Recipe
from tasks.running.budget import Budget, Grant
from tasks.running.job import Planned

FEWEST_ROWS = 100  # with fewer, a share says little
REASONS_TOLD = 3


@dataclass(frozen=True)
class RunLimits:
    """drops: the share of a step's rows that may be dropped, where models are asked: other stages drop on purpose.
    spent: tells, at a step's start, what the job has spent by then, by step.
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

        async def lease(step: str, wanted: int, used: Usage, sent: int) -> Grant:
            return budget.lease(step, wanted, used, sent)

        return budget.settings, lease

    def reached(self, planned: Planned, progress: Progress) -> LimitReached | None:
        """Whether a step under way drops too much."""
        if not isinstance(planned.stage, Recipe):
            return None
        return self.too_many(planned.step, progress.rows, progress.dropped, progress.reasons)

    def check(self, planned: Planned, manifest: Manifest) -> None:
        """Raises LimitReached for a finished step that dropped too much."""
        if isinstance(planned.stage, Recipe):
            dropped = manifest.dropped
            if error := self.too_many(planned.step, manifest.rows_in, sum(dropped.values()), dropped):
                raise error

    def too_many(self, step: str, rows: int, dropped: int, reasons: Mapping[str, int]) -> LimitReached | None:
        if rows < FEWEST_ROWS or dropped <= self.drops * rows:
            return None
        told = ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common(REASONS_TOLD))
        return LimitReached(
            f"{step}: {dropped:,} of {rows:,} rows were dropped ({told}), more than the {self.drops:.0%} of "
            "drop_limit; what is made is kept: mend the cause, or raise drop_limit, and run the same command again"
        )


NO_LIMITS = RunLimits()
