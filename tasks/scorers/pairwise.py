"""A judge that compares answers pair by pair. Source: docs/papers.md#self-judge."""

from typing import ClassVar, Literal

from pydantic import Field

from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.matches import MatchJudge, MatchSettings, pairs_to_judge
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import present_mean


class PairwiseScores(MatchJudge):
    """Pools -> the same with each answer's mean chance to win against others, each match judged in both orders.

    A match is worth the mean of both orders' probabilities for the answer (1 or 0 each where the engine gives no
    logprobs), so two orders that contradict each other make a tie, 0.5 for both. opponents: each answer is compared
    with so many that follow it in the pool, so it meets twice as many; 0: all. A match that lacks a judgement counts
    for neither answer.
    """

    name: ClassVar = "pairwise_scores"
    version: ClassVar = "3"
    roles: ClassVar = ("judge",)

    label: str = "pairwise"
    opponents: int = Field(0, ge=0)

    def matches(self, count: int) -> list[tuple[int, int]]:
        return pairs_to_judge(count, self.opponents)

    def requests_per_row(self) -> int:
        return 2 * len(self.matches(self.most_answers)) * (self.attempts if self.rubric else 1)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        matches, judgements = self.matches(len(row.answers)), Judgements()
        chances = yield from self.judge_matches(row, matches, judgements)
        won: list[list[float]] = [[] for _ in row.answers]
        for (first, second), chance in zip(matches, chances, strict=True):
            if chance is not None:
                won[first].append(chance)
                won[second].append(1 - chance)
        return self.with_score(row, [present_mean(wins) for wins in won], judgements)


class PairwiseSettings(MatchSettings):
    """A judge's comparisons of each answer with others."""

    kind: Literal["pairwise"] = "pairwise"
    opponents: int = Field(
        0, ge=0, description="the next answers each is compared with, so it meets twice as many; 0: all"
    )

    def stage(self, context: ScoringContext) -> PairwiseScores:
        return PairwiseScores(**self.shared_fields(context), opponents=self.opponents)
