"""What ends a run early: its budget, or a share of dropped rows so large that something must be wrong."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import Usage
from synthmill.schemas.errors import LimitReached
from synthmill.schemas.progress import Progress
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.budget import Budget, Grant
from synthmill.tasks.running.job import Planned

FEWEST_ROWS = 100  # with fewer, a share says little
REASONS_SHOWN = 3


@dataclass(frozen=True)
class RunLimits:
    """drops: the share of a step's rows that may be dropped, where models are asked: other stages drop on purpose.
    spent: returns what the job has spent by now, by step; called when a step starts.
    """

    budget: Budget | None = None
    drops: float = 1.0
    spent: Callable[[], Mapping[str, Usage]] = dict

    def recount_budget(self) -> None:
        """Before a stage: count what this job has spent by now, other runs' share included."""
        if self.budget:
            self.budget.reset(self.spent())

    def local_lease(self) -> tuple[Any, ...]:
        """The arguments `budget` and `lease` of a Worker in this process; none where there is no budget."""
        if self.budget is None:
            return ()
        budget = self.budget

        async def lease(step: str, requests: int, used: Usage, sent: int) -> Grant:
            return budget.lease(step, requests, used, sent)

        return budget.settings, lease

    def reached(self, planned: Planned, progress: Progress) -> LimitReached | None:
        """The error of a step under way that drops too many rows."""
        if not isinstance(planned.stage, Recipe):
            return None
        return self.drops_error(planned.step, progress.rows, progress.dropped, progress.reasons)

    def check(self, planned: Planned, manifest: Manifest) -> None:
        """Raises LimitReached for a finished step that dropped too many rows."""
        if isinstance(planned.stage, Recipe):
            dropped = manifest.dropped
            if error := self.drops_error(planned.step, manifest.rows_in, sum(dropped.values()), dropped):
                raise error

    def drops_error(self, step: str, rows: int, dropped: int, reasons: Mapping[str, int]) -> LimitReached | None:
        if rows < FEWEST_ROWS or dropped <= self.drops * rows:
            return None
        counts = ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common(REASONS_SHOWN))
        return LimitReached(
            f"{step}: {dropped:,} of {rows:,} rows were dropped ({counts}), more than the {self.drops:.0%} of "
            "drop_limit; what is made is kept: mend the cause, or raise drop_limit, and run the same command again"
        )


NO_LIMITS = RunLimits()
