"""The additive five-point judge of Self-Rewarding Language Models. Source: docs/papers.md#self-rewarding."""

import re
from typing import ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Completion, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, mean_verdicts
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import judgement_of

MOST_POINTS = 5
TOTAL = re.compile(r"^[\W_]*(?:total )?score\b[\W_]*(\d+)", re.IGNORECASE | re.MULTILINE)


class AdditiveScores(AnswerJudge):
    """Pools -> the same, each answer given a point for each of five criteria that it meets: the mean over `evaluations`
    of the totals, 0 to 5.

    An empty answer gets 0 without a call.
    """

    name: ClassVar = "additive_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"self_rewarding/score": ("answer",)}

    label: str = "self_rewarding"
    evaluations: int = Field(3, ge=1)
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=512)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements = Judgements()
        totals = yield from self.judge_answers(row, judgements, total_points)
        return self.with_score(row, mean_verdicts(totals, 0), judgements)


class SelfRewardingSettings(JudgeSettings):
    """A judge's points for five criteria, counted one by one and averaged, 0 to 5."""

    kind: Literal["self-rewarding"] = "self-rewarding"
    evaluations: int = Field(3, ge=1, le=1000, description="judgements of an answer, averaged; 3 is the paper's")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    temperature: float = Field(0.7, ge=0, description="how far the evaluations of an answer may differ")
    top_p: float = Field(0.9, gt=0, le=1)

    def stage(self, context: ScoringContext) -> AdditiveScores:
        return AdditiveScores(
            **self.shared_fields(context),
            evaluations=self.evaluations,
            attempts=self.attempts,
            sampling=Sampling(
                temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=context.seed
            ),
        )


def total_points(completion: Completion) -> int | None:
    """The total at the end of a judgement, `Score: 4`. None where the judge could not be asked. Raises Drop where it
    has none, no whole number from 0 to 5, or two totals that differ.
    """
    try:
        judgement = judgement_of(completion, 0, MOST_POINTS)
    except Drop as drop:
        raise Drop(
            f"{drop.reason}: it did not end with `Score: ` and one whole number from 0 to {MOST_POINTS}"
        ) from drop
    if judgement is None:
        return None
    totals = {*TOTAL.findall(completion.text), str(judgement[1])}
    if len(totals) > 1:
        raise Drop(f"two_scores: it had the totals {', '.join(sorted(totals))}; give one, as the last line")
    return judgement[1]
