"""A judge that finds a pool's best answer by knock-out. Source: docs/papers.md#self-judge."""

from typing import ClassVar, Literal

from synthmill.schemas.hashing import digest
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.matches import MatchJudge, MatchSettings
from synthmill.tasks.scorers.scoring import ScoringContext


class TournamentScores(MatchJudge):
    """Pools -> the same with the rounds that each answer survives in a knock-out: n - 1 matches, each judged in both
    orders.

    The pool's id seeds the order; the odd answer of a round gets a bye. A tie, and a match without a judgement, goes to
    the lower place.
    """

    name: ClassVar = "tournament_scores"
    version: ClassVar = "3"
    roles: ClassVar = ("judge",)

    label: str = "tournament"

    def requests_per_row(self) -> int:
        return 2 * (self.most_answers - 1) * (self.attempts if self.rubric else 1)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        rounds, judgements = [0.0] * len(row.answers), Judgements()
        remaining = sorted(range(len(row.answers)), key=lambda place: digest(["tournament", row.id, place]))
        any_judged = len(remaining) < 2
        while len(remaining) > 1:
            matches = [(min(pair), max(pair)) for pair in zip(remaining[::2], remaining[1::2], strict=False)]
            chances = yield from self.judge_matches(row, matches, judgements)
            any_judged = any_judged or any(chance is not None for chance in chances)
            winners = [
                second if chance is not None and chance < 0.5 else first
                for (first, second), chance in zip(matches, chances, strict=True)
            ]
            remaining = winners + remaining[2 * len(matches) :]
            for place in remaining:
                rounds[place] += 1
        return self.with_score(row, rounds if any_judged else [None] * len(rounds), judgements)


class TournamentSettings(MatchSettings):
    """Rounds in a knock-out that a judge decides."""

    kind: Literal["tournament"] = "tournament"

    def stage(self, context: ScoringContext) -> TournamentScores:
        return TournamentScores(**self.shared_fields(context))
