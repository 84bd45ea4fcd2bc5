"""Which prompts a model fails at, by the scores of its answers. Source: docs/papers.md#reversegen, #self-challenge."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from synthmill.schemas.rows import Dropped, Row
from synthmill.tasks.scorers.judgements import COLUMNS
from synthmill.tasks.tables.pool_scores import beside_answers, score_values
from synthmill.tasks.tables.table_stage import TableStage, drops

PASSING = 5.0
"""Of a judge's 0 to 10; ours."""


class PromptSet(Row):
    """The prompts that a model wrote in one go; `explode` makes a row of each. shown: its examples; group: the
    row that they were written for; origin: what that was about, in words.
    """

    prompt: tuple[str, ...]
    shown: tuple[str, ...] = ()
    group: str = ""
    origin: str = ""


class FailedPrompts(TableStage):
    """Pools -> a row per prompt, under the pool's id: `mean_score` of its answers, whether that is below `passing`
    (`failed`), the lowest-scored answer (`worst_answer`). Drops: not_scored, where no answer has a score.
    """

    name: ClassVar = "failed_prompts"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "answers")
    adds: ClassVar = ("mean_score", "failed", "worst_answer")

    score: str
    passing: float = PASSING

    def columns_read(self) -> Sequence[str]:
        return self.needs

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        scores = score_values(frame, f"stage {self.name}", self.score) if frame.height else pl.Series([], dtype=SCORES)
        texts = frame["answers"].list.eval(pl.element().struct.field("text"))
        rows = frame.select(name for name in beside_answers(frame) if name not in COLUMNS).with_columns(
            mean_score=scores.list.mean(),
            failed=scores.list.mean() < self.passing,
            worst_answer=texts.list.get(scores.list.arg_min(), null_on_oob=True),
        )
        scored = pl.col("mean_score").is_not_null()
        faults = drops(rows.filter(~scored)["id"], "not_scored", [self.score] * rows.filter(~scored).height)
        return rows.filter(scored), faults


SCORES = pl.List(pl.Float64)
