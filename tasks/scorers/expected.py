"""A judge that names a digit: the score is the expected one. Source: docs/papers.md#expected-score."""

from typing import ClassVar, Literal

from synthmill.schemas.calls import Completion
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.labels import LEAST_MASS, LeastMass, chances_of, one_token
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.shared_first import PoolJudge, PoolJudgeSettings

DIGITS = "0123456789"


class ExpectedScores(PoolJudge):
    """Pools -> the same, each answer judged from 0 to 9: the expected digit under the probabilities of the judge's one
    token, from one call.

    Where the engine gives no logprobs, the digit itself counts. An empty answer scores 0 without a call.
    """

    name: ClassVar = "expected_scores"
    version: ClassVar = "3"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"pools/digit": ("answer",)}

    label: str = "expected"
    least_mass: LeastMass = LEAST_MASS

    def requests_per_row(self) -> int:
        return self.most_answers

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        written = [place for place, answer in enumerate(row.answers) if answer.text.strip()]
        requests = [self.request(row, answer=row.answers[place].text) for place in written]
        judgements = Judgements()
        digits = yield from judgements.ask(requests, 1, lambda completion: expected_digit(completion, self.least_mass))
        values: list[float | None] = [0.0] * len(row.answers)
        for place, digit in zip(written, digits, strict=True):
            values[place] = digit
        return self.with_score(row, values, judgements)


class ExpectedSettings(PoolJudgeSettings):
    """A judge's expected digit, 0 to 9, from one token."""

    kind: Literal["expected"] = "expected"
    least_mass: LeastMass = LEAST_MASS

    def stage(self, context: ScoringContext) -> ExpectedScores:
        own = {"sampling": one_token(context.seed), "least_mass": self.least_mass}
        return ExpectedScores(**self.shared_fields(context), **own)


def expected_digit(completion: Completion, least_mass: float = LEAST_MASS) -> float | None:
    """The mean digit under the judge's probabilities; None where it gave no digit, or was hardly about to."""
    chances = chances_of(completion, DIGITS, least_mass)
    return sum(int(digit) * chance for digit, chance in chances.items()) if chances else None
