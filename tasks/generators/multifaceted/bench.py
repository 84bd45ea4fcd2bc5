"""Judging a model on a bench: its answers, one judgement per rubric, several runs, and the means.

Source: docs/papers.md#multifaceted, "judging".
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import Field

from schemas.calls import Message, Request, Sampling
from schemas.multifaceted import BenchRow, JudgedRow
from schemas.rows import Dropped
from tasks.frames import FrameStage
from tasks.prompts import load
from tasks.recipe import MOST_ATTEMPTS, Recipe, Steps
from tasks.scorers.judgements import Judgements
from tasks.scorers.verdicts import LOWEST, judgement_of, present_mean


class Judged(Recipe[BenchRow, JudgedRow]):
    """Bench row -> in each of `runs`, an answer of the student, and the judge's score of it under each rubric.

    A judgement without a score from 1 to 5 is asked for again, its fault named; after `attempts` the score is missing
    (None), and so are all of an answer that could not be had. An empty answer scores 1, unasked.
    Source: docs/papers.md#multifaceted, "judging".
    """

    name: ClassVar = "judged"
    version: ClassVar = "2"
    roles: ClassVar = ("student", "judge")
    prompts: ClassVar = {"multifaceted/judge": ("instruction", "answer", "rubric")}

    runs: int = Field(3, ge=1)
    attempts: int = Field(6, ge=1, le=MOST_ATTEMPTS)
    judging: Sampling = Sampling()
    rubrics: int = Field(4, ge=1, exclude=True, description="of a row, for plans")

    def requests_per_row(self) -> int:
        return self.runs * (1 + self.rubrics * self.attempts)

    def tokens_per_row(self) -> int:
        judged = self.rubrics * self.attempts * self.judging.max_tokens
        return self.runs * (self.sampling.max_tokens + judged)

    def steps(self, row: BenchRow) -> Steps[JudgedRow]:
        user = Message(role="user", content=row.prompt)
        asked = (Message(role="system", content=row.system), user) if row.system else (user,)
        answers = yield Request(role="student", messages=asked, sampling=self.sampling, optional=True).sampled(
            self.runs
        )
        wanted = [(run, rubric) for run, one in enumerate(answers) if one.text.strip() for rubric in row.rubrics]
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
            for run, rubric in wanted
        ]
        judgements = Judgements()
        found = yield from judgements.ask(requests, self.attempts, judgement_of)
        scores: list[list[int | None]] = [[] for _ in range(self.runs)]
        feedbacks: list[list[str]] = [[] for _ in range(self.runs)]
        for (run, _), one in zip(wanted, found, strict=True):
            feedbacks[run].append(one[0] if one else "")
            scores[run].append(one[1] if one else None)
        for run, answer in enumerate(answers):
            if not scores[run]:
                scores[run] = [None if answer.error else LOWEST] * len(row.rubrics)
        return JudgedRow.child_of(
            row,
            self.name,
            answers=tuple(one.text for one in answers),
            scores=tuple(map(tuple, scores)),
            feedbacks=tuple(tuple(one) for one in feedbacks),
            **judgements.columns(),
        )


class BenchScores(FrameStage):
    """Judged rows -> with `run_scores`: per run, the mean of the row's scores that are there (null: none is).

    Drops: no_score, in no run. Source: docs/papers.md#multifaceted, "judging"; the rule for missing scores is ours.
    """

    name: ClassVar = "bench_scores"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "scores")
    adds: ClassVar = ("run_scores",)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        means = [[present_mean(run) for run in runs] for runs in frame["scores"].to_list()]
        scored = frame.with_columns(pl.Series("run_scores", means, dtype=pl.List(pl.Float64)))
        some = pl.col("run_scores").list.drop_nulls().list.len() > 0
        return scored.filter(some), [Dropped(id=row, reason="no_score") for row in scored.filter(~some)["id"]]


class BenchResult(NamedTuple):
    """Of one model, or one dimension. spread: the sample standard deviation over runs; None for a single run."""

    name: str
    score: float | None
    spread: float | None
    runs: tuple[float | None, ...]
    missing: int


def over_runs(name: str, per_row: Sequence[Sequence[float | None]]) -> BenchResult:
    """Mean over rows of each run (rows without a score are left out and counted), then the mean over runs.

    per_row: per row, one number per run.
    """
    runs = [present_mean(run) for run in zip(*per_row, strict=True)]
    there = [run for run in runs if run is not None]
    missing = sum(score is None for row in per_row for score in row)
    return BenchResult(name, present_mean(runs), stdev(there) if len(there) > 1 else None, tuple(runs), missing)


def bench_results(rows: pl.DataFrame) -> list[BenchResult]:
    """First the model's, the mean over rows of their run_scores; then one for each dimension of the preference sets.

    rows: what BenchScores made.
    """
    of: dict[str, list[list[float | None]]] = {}
    sets: list[list[dict[str, Any]]] = rows["preference_set"].to_list()
    for values, runs in zip(sets, rows["scores"].to_list(), strict=True):
        for place, value in enumerate(values):
            of.setdefault(value["dimension"], []).append([run[place] for run in runs])
    dimensions = (over_runs(name, scores) for name, scores in of.items())
    return [over_runs("all rubrics", rows["run_scores"].to_list()), *dimensions]
