"""A judge made fair: evidence before the scores, several times, in both orders, and a flag where they disagree.

Source: docs/papers.md#fair.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, part_label
from synthmill.tasks.scorers.figures import counts_of_scores
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.pairwise import PairwiseScores
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import present_mean

LOWEST, HIGHEST = 1, 10
UNDECIDED = math.log(2)  # nats: as many verdicts for the one as for the other
SCORE = re.compile(r"score\s+of\s+response\s+\(?([AB])\)?\s*[:=]\s*\[?(-?[\d.,]+[^\n]*)", re.IGNORECASE)
PARTS = ("doubt", "look")
Scores = tuple[int, int]


class FairScores(AnswerJudge):
    """Pools -> the same, each answer's mean score from 1 to 10 over matches with others, each judged `evaluations`
    times in both orders, with evidence first.

    LABEL_doubt is the mean entropy of its matches' verdicts (win, tie, lose), in nats; LABEL_look is 1 where that is at
    least `look_from`, so that a person should look. A match without a verdict in one of the orders counts for neither
    answer. opponents: as in `pairwise_scores`. Equal answers are not asked about.
    """

    name: ClassVar = "fair_scores"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"fair/scores": ("first", "second")}

    label: str = "fair"
    evaluations: int = Field(3, ge=1)
    opponents: int = Field(0, ge=0)
    look_from: float = Field(UNDECIDED, ge=0)
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=512)

    def matches(self, count: int) -> list[tuple[int, int]]:
        return PairwiseScores(opponents=self.opponents).matches(count)

    def requests_per_row(self) -> int:
        return 2 * len(self.matches(self.most_answers)) * self.evaluations * self.attempts

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        texts = [answer.text for answer in row.answers]
        matches = [(i, j) for i, j in self.matches(len(texts)) if texts[i] != texts[j]]
        requests = []
        for i, j in (order for match in matches for order in (match, match[::-1])):
            request = self.ask_for("fair/scores", row, first=texts[i], second=texts[j])
            requests += [request.model_copy(update={"sample": k * MOST_ATTEMPTS}) for k in range(self.evaluations)]
        judgements = Judgements()
        verdicts = (yield from judgements.ask(requests, self.attempts, scores_of)) if requests else []
        scores: list[list[float]] = [[] for _ in texts]
        doubts: list[list[float]] = [[] for _ in texts]
        for n, (i, j) in enumerate(matches):
            start = 2 * n * self.evaluations
            forth = present(verdicts[start : start + self.evaluations])
            back = present(verdicts[start + self.evaluations : start + 2 * self.evaluations])
            if forth and back:
                for place, both in ((i, (forth, turned(back))), (j, (turned(forth), back))):
                    means = [sum(own for own, _ in of_order) / len(of_order) for of_order in both]
                    scores[place].append(sum(means) / 2)
                    doubts[place].append(entropy_of([*both[0], *both[1]]))
        doubt = [present_mean(of_answer) for of_answer in doubts]
        look = [None if value is None else float(value >= self.look_from - 1e-9) for value in doubt]
        parts = dict(zip(PARTS, (doubt, look), strict=True))
        return self.with_parts(row, [present_mean(of_answer) for of_answer in scores], parts, judgements)

    figure_columns: ClassVar = ("scores",)

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """How many answers a person should look at."""
        counts = counts_of_scores(batches, part_label(self.label, "look"))
        line = f"{counts[1.0]:,} of {counts.total():,} answers should be looked at: their verdicts are undecided"
        return [Figure.lines(f"{self.label}: where a person should look", [line])] if counts else []


class FairSettings(JudgeSettings):
    """Scores from 1 to 10 by comparisons with evidence, several in both orders; and where a person should look."""

    kind: Literal["fair"] = "fair"
    evaluations: int = Field(3, ge=1, le=1000, description="judgements of a match in each order")
    opponents: int = Field(0, ge=0, description="the next answers each is compared with; 0: all")
    look_from: float = Field(UNDECIDED, ge=0, description="nats of entropy from which a person should look")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    temperature: float = Field(1.0, ge=0, description="how far the judgements of a match may differ")

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(part_label(self.label, part) for part in PARTS), self.label)

    def stage(self, context: ScoringContext) -> FairScores:
        own = {name: getattr(self, name) for name in ("evaluations", "opponents", "look_from", "attempts")}
        sampling = Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed)
        return FairScores(**self.shared_fields(context), **own, sampling=sampling)


def scores_of(completion: Completion) -> Scores | None:
    """(A's score, B's score); None where the judge could not be asked. Raises Drop where one is missing, stands there
    with two values, or is no whole number from 1 to 10.
    """
    if completion.error:
        return None
    values: dict[str, set[str]] = {"A": set(), "B": set()}
    for letter, value in SCORE.findall(re.sub(r"[*_`]", "", completion.text)):
        values[letter.upper()].add(re.sub(r"\s*/\s*10\b|[\].]+\s*$", "", value).strip())
    scores = []
    for letter, texts in values.items():
        if len(texts) != 1:
            raise Drop(f"no_score: it had {len(texts) or 'no'} scores of response {letter}; end with one line for each")
        [text] = texts
        if not re.fullmatch("10|[1-9]", text):
            raise Drop(f"bad_score: response {letter} had {text[:40]!r}; give one whole number from 1 to 10")
        scores.append(int(text))
    first, second = scores
    return first, second


def present(verdicts: Sequence[Scores | None]) -> list[Scores]:
    return [verdict for verdict in verdicts if verdict is not None]


def turned(verdicts: Sequence[Scores]) -> list[Scores]:
    """The same, the other response first."""
    return [(second, first) for first, second in verdicts]


def entropy_of(verdicts: Sequence[Scores]) -> float:
    """The entropy of wins, ties and losses, in nats: 0 where all agree, at most log 3."""
    counts = Counter((first > second) - (first < second) for first, second in verdicts)
    shares = [count / len(verdicts) for count in counts.values()]
    return abs(sum(share * math.log(share) for share in shares))
