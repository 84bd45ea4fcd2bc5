"""Judging a model on a bench: its answers, one judgement per rubric, several runs, and the means.

Source: docs/papers.md#multifaceted, "judging".
"""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import Field

from schemas.calls import Completion, Message, Request, Sampling
from schemas.errors import Drop
from schemas.multifaceted import BenchRow, JudgedRow
from schemas.rows import Dropped
from tasks.frames import FrameStage
from tasks.prompts import load
from tasks.recipe import MOST_ATTEMPTS, Recipe, Steps
from tasks.scorers.judgements import Judgements

LOWEST, HIGHEST = 1, 5
VERDICT = 200  # characters: a score is read from so many after the tag, or at the end
TAG = re.compile(r"\[\s*result\s*\]", re.IGNORECASE)
NUMBER = r"[(\[]?\s*(?<![.,−–])(?P<score>-?\d+)(?:\s*(?:/|out of|of)\s*(?P<of>\d+))?"
NAMED = r"(?:score|result|rating)\s*\]?\s*(?::|=|\bof\b|\bis\b)?"
TAGGED = re.compile(rf"[^\w-]*(?:(?:\w+ ){{0,4}}?{NAMED}[^\w-]*)?{NUMBER}(?P<rest>[^\n]*)", re.IGNORECASE)
AT_THE_END = re.compile(rf"(?:\b{NAMED}\s*|(?=[(\[])){NUMBER}(?P<rest>)[\s)\].!]*$", re.IGNORECASE)
OTHER = re.compile(r"\s*%|(?:st|nd|rd|th)\b", re.IGNORECASE)
"""What makes a number another than a score: a per cent sign, an ordinal's ending."""


def parse_score(text: str, lowest: int = LOWEST, highest: int = HIGHEST) -> tuple[str, int]:
    """(feedback, score) of a judgement: the number after the last [RESULT]; without one, a number at the very end that
    is in brackets or called a score. Raises Drop where there is none, or it is no whole number in the range.
    """
    *before, verdict = TAG.split(text)
    feedback = (" ".join(before) if before else text).strip()
    verdict = re.sub(r"[*_`]", "", verdict)  # bold
    found = TAGGED.match(verdict[:VERDICT]) if before else AT_THE_END.search(verdict[-VERDICT:])
    if not found:
        raise Drop(f"no_score: it had no score; end with [RESULT] and a whole number from {lowest} to {highest}")
    score, of, rest = found["score"], found["of"], found["rest"]
    other = any(map(str.isnumeric, rest)) or OTHER.match(rest)  # 4.5, 3-4, 3 or 4, 3½, 3rd, 3 %: not one number
    if (
        other
        or (of and int(of) != highest)
        or not re.fullmatch("0|[1-9][0-9]?", score)
        or not lowest <= int(score) <= highest
    ):
        said = found.group().strip()[:40]
        raise Drop(f"bad_score: its score was {said!r}; give one whole number from {lowest} to {highest}")
    return feedback, int(score)


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


def judgement_of(said: Completion, lowest: int = LOWEST, highest: int = HIGHEST) -> tuple[str, int] | None:
    """(feedback, score); None where the judge could not be asked. Raises Drop for a judgement without a score."""
    if said.error:
        return None
    if said.finish_reason == "length" and not TAG.search(said.text):
        raise Drop("no_score: it was cut, because it was too long; be shorter")
    return parse_score(said.text, lowest, highest)


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


def present_mean(scores: Sequence[float | None]) -> float | None:
    """The mean of what is there; None where nothing is."""
    there = [score for score in scores if score is not None]
    return mean(there) if there else None


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
