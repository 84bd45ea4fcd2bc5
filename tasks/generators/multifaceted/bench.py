"""Judging a model on a bench: its answers, a judgement per rubric, several runs, and their means.

Source: docs/papers.md#multifaceted, "judging".
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Message, Request, Sampling
from synthmill.schemas.multifaceted import BenchRow, JudgedRow
from synthmill.schemas.rows import Dropped
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, was_cut_while_thinking
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.verdicts import LOWEST, judgement_of, present_mean


class Judged(Recipe[BenchRow, JudgedRow]):
    """Bench row -> in each of `runs`, an answer of the student, and the judge's score of it under each rubric.

    A judgement without a score from 1 to 5 is asked for again, with its fault; after `attempts` the score is missing
    (None). A failed answer has no scores, nor has one that ended in its thinking; an empty one scores 1, without a
    judge.
    Source: docs/papers.md#multifaceted, "judging".
    """

    name: ClassVar = "judged"
    version: ClassVar = "3"
    roles: ClassVar = ("student", "judge")
    prompts: ClassVar = {"multifaceted/judge": ("instruction", "answer", "rubric")}

    runs: int = Field(3, ge=1)
    attempts: int = Field(6, ge=1, le=MOST_ATTEMPTS)
    judging: Sampling = Sampling()
    rubrics: int = Field(4, ge=1, exclude=True, description="of a row, for plans")

    def requests_per_row(self) -> int:
        return self.runs * (1 + self.rubrics * self.attempts)

    def tokens_per_row(self) -> int:
        judge_tokens = self.rubrics * self.attempts * self.judging.planned_tokens
        return self.runs * (self.sampling.planned_tokens + judge_tokens)

    def steps(self, row: BenchRow) -> Steps[JudgedRow]:
        user = Message(role="user", content=row.prompt)
        messages = (Message(role="system", content=row.system), user) if row.system else (user,)
        answers = yield Request(role="student", messages=messages, sampling=self.sampling, optional=True).sampled(
            self.runs
        )
        asks = [(run, rubric) for run, answer in enumerate(answers) if answer.text.strip() for rubric in row.rubrics]
        requests = [
            Request(
                role="judge",
                messages=load("multifaceted/judge").render(
                    row=row, instruction=f"{row.system}\n{row.prompt}".strip(), answer=answers[run].text, rubric=rubric
                ),
                sampling=self.judging,
                sample=run * MOST_ATTEMPTS,  # another run is another judgement, even of an equal answer
                optional=True,
            )
            for run, rubric in asks
        ]
        judgements = Judgements()
        verdicts = yield from judgements.ask(requests, self.attempts, judgement_of)
        scores: list[list[int | None]] = [[] for _ in range(self.runs)]
        feedbacks: list[list[str]] = [[] for _ in range(self.runs)]
        for (run, _), verdict in zip(asks, verdicts, strict=True):
            feedback, score = verdict or ("", None)
            feedbacks[run].append(feedback)
            scores[run].append(score)
        for run, answer in enumerate(answers):
            if not scores[run]:
                missing = bool(answer.error) or was_cut_while_thinking(answer)
                scores[run] = [None if missing else LOWEST] * len(row.rubrics)
        return JudgedRow.child_of(
            row,
            self.name,
            answers=tuple(answer.text for answer in answers),
            answers_reasoning=tuple(answer.reasoning for answer in answers),
            scores=tuple(map(tuple, scores)),
            feedbacks=tuple(map(tuple, feedbacks)),
            **judgements.columns(),
        )


class BenchScores(FrameStage):
    """Judged rows -> with `run_scores`: per run, the mean of the row's scores that are not missing (null: all are).

    Drops: no_score, where no run has one. Source: docs/papers.md#multifaceted, "judging"; the rule for missing scores
    is ours.
    """

    name: ClassVar = "bench_scores"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "scores")
    adds: ClassVar = ("run_scores",)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        means = [[present_mean(run) for run in runs] for runs in frame["scores"].to_list()]
        scored = frame.with_columns(pl.Series("run_scores", means, dtype=pl.List(pl.Float64)))
        has_score = pl.col("run_scores").list.drop_nulls().list.len() > 0
        return scored.filter(has_score), [Dropped(id=row, reason="no_score") for row in scored.filter(~has_score)["id"]]


class BenchResult(NamedTuple):
    """A result, overall or of a dimension. spread: the sample standard deviation over runs; None for a single run."""

    name: str
    score: float | None
    spread: float | None
    runs: tuple[float | None, ...]
    missing: int


def summarize_runs(name: str, per_row: Sequence[Sequence[float | None]]) -> BenchResult:
    """Mean over rows of each run (rows without a score are left out and counted), then the mean over runs.

    per_row: per row, one number per run.
    """
    runs = [present_mean(run) for run in zip(*per_row, strict=True)]
    scores = [run for run in runs if run is not None]
    missing = sum(score is None for row in per_row for score in row)
    return BenchResult(name, present_mean(runs), stdev(scores) if len(scores) > 1 else None, tuple(runs), missing)


def bench_results(rows: pl.DataFrame) -> list[BenchResult]:
    """The model's result, from its rows' run_scores; then one for each dimension of the preference sets.

    rows: of BenchScores.
    """
    scores_of: dict[str, list[list[float | None]]] = {}
    sets: list[list[dict[str, Any]]] = rows["preference_set"].to_list()
    for values, runs in zip(sets, rows["scores"].to_list(), strict=True):
        for place, value in enumerate(values):
            scores_of.setdefault(value["dimension"], []).append([run[place] for run in runs])
    dimensions = (summarize_runs(name, scores) for name, scores in scores_of.items())
    return [summarize_runs("all rubrics", rows["run_scores"].to_list()), *dimensions]
