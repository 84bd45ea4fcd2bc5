"""Judges that score one answer at a time: from 0 to 10, or from 1 to 5 under a rubric.

Sources: docs/papers.md#rip (0 to 10, averaged), #prometheus (rubrics).
"""

from typing import ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Sampling
from synthmill.schemas.multifaceted import Rubric
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, MaxTokens, RubricOf
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.shared_first import PoolJudge, PoolJudgeSettings
from synthmill.tasks.scorers.verdicts import HIGHEST, LOWEST, judgement_of, present_mean

HELPFUL = Rubric(
    criteria="Does the response do what the instruction asks, correctly and completely, at the length that it needs?",
    score_descriptions=(
        "It does not do what was asked, or nothing in it can be relied on.",
        "It does part of what was asked, with errors that a reader would stumble over.",
        "It does most of what was asked; something is missing, wrong or beside the point.",
        "It does what was asked, with a small thing missing or said at too great a length.",
        "It does all that was asked, correctly, and says nothing that could be left out.",
    ),
)


class DirectScores(PoolJudge):
    """Pools -> the same, each answer judged from 0 to 10, or from 1 to 5 under a rubric: the mean over `evaluations`.

    An empty answer gets the lowest score without a call.
    """

    name: ClassVar = "direct_scores"
    version: ClassVar = "3"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"pools/score": ("answer", "rubric"), "pools/rubric": ("answer", "rubric")}

    evaluations: int = Field(10, ge=1)
    rubric: Rubric | None = None

    def prompt(self) -> str:
        return "pools/rubric" if self.rubric else "pools/score"

    def requests_per_row(self) -> int:
        return self.most_answers * self.evaluations * self.attempts

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        lowest, highest = (LOWEST, HIGHEST) if self.rubric else (0, 10)
        written = [place for place, answer in enumerate(row.answers) if answer.text.strip()]
        requests = []
        for place in written:
            request = self.request(row, answer=row.answers[place].text, rubric=self.rubric)
            requests += [request.model_copy(update={"sample": k * MOST_ATTEMPTS}) for k in range(self.evaluations)]
        judgements = Judgements()
        verdicts = yield from judgements.ask(
            requests, self.attempts, lambda completion: judgement_of(completion, lowest, highest)
        )
        values: list[float | None] = [float(lowest)] * len(row.answers)
        for n, place in enumerate(written):
            of_answer = verdicts[n * self.evaluations : (n + 1) * self.evaluations]
            values[place] = present_mean([verdict[1] if verdict else None for verdict in of_answer])
        return self.with_score(row, values, judgements)


class DirectSettings(PoolJudgeSettings):
    """The settings that both kinds share."""

    evaluations: int = Field(10, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    temperature: float = Field(1.0, ge=0, description="how far the evaluations of an answer may differ")

    def stage_with(self, rubric: Rubric | None, context: ScoringContext) -> DirectScores:
        return DirectScores(
            **self.shared_fields(context),
            evaluations=self.evaluations,
            attempts=self.attempts,
            sampling=Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed),
            rubric=rubric,
        )


class TenPointSettings(DirectSettings):
    """A judge's scores from 0 to 10."""

    kind: Literal["judge"] = "judge"

    def stage(self, context: ScoringContext) -> DirectScores:
        return self.stage_with(None, context)


class RubricSettings(DirectSettings):
    """A judge's scores from 1 to 5, under a rubric."""

    kind: Literal["rubric"] = "rubric"
    rubric: RubricOf = None

    def stage(self, context: ScoringContext) -> DirectScores:
        return self.stage_with(self.rubric or HELPFUL, context)
