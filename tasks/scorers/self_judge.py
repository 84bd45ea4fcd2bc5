"""SELF-JUDGE's pairwise judge under several principles, each asked for by itself. Source: docs/papers.md#self-judge."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import part_label
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, Judge, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.labels import LEAST_MASS, LeastMass, one_token
from synthmill.tasks.scorers.matches import chance_of_first, pairs_to_judge, verdict_of
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import present_mean

MEAN = "mean"
PRINCIPLES = (
    "Helpful: it does what the instruction asks, completely and to the point.",
    "Honest: what it states is true, and it says what it does not know.",
    "Harmless: it is free of danger, insult and bias.",
)
Principles = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(description="each judged by itself; none: quality as such")
]
Opponents = Annotated[
    int, Field(ge=0, description="the next answers each is compared with, so it meets twice as many; 0: all")
]


class PrincipledScores(Judge):
    """Pools -> the same with each answer's share of wins against others. A match is judged under each principle in both
    orders; who wins under most principles wins, an even vote goes to the higher mean chance. LABEL_mean is that mean.

    A verdict is one token and its probability; with `rationale`, reasons and then a letter. A principle that lacks a
    judgement has no vote; a match without any counts for neither.
    """

    name: ClassVar = "principled_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {
        "self_judge/compare": ("first", "second", "principle"),
        "self_judge/reasoned": ("first", "second", "principle"),
    }

    label: str = "self_judge"
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=512)
    principles: Principles = PRINCIPLES
    rationale: bool = False
    opponents: Opponents = 0
    least_mass: LeastMass = LEAST_MASS

    def requests_per_row(self) -> int:
        matches = len(pairs_to_judge(self.most_answers, self.opponents))
        return 2 * matches * max(1, len(self.principles)) * (self.attempts if self.rationale else 1)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        texts, judgements = [answer.text for answer in row.answers], Judgements()
        matches = pairs_to_judge(len(texts), self.opponents)
        unlike = [n for n, (first, second) in enumerate(matches) if texts[first] != texts[second]]
        principles = self.principles or ("",)
        requests = [
            self.ask(row, texts[i], texts[j], principle)
            for n in unlike
            for principle in principles
            for i, j in (matches[n], matches[n][::-1])
        ]
        attempts, parse = (self.attempts, verdict_of) if self.rationale else (1, self.chance)
        verdicts = yield from judgements.ask(requests, attempts, parse)
        won: list[list[float]] = [[] for _ in texts]
        means: list[list[float]] = [[] for _ in texts]
        per_match = 2 * len(principles)
        of_match = {n: verdicts[k * per_match : (k + 1) * per_match] for k, n in enumerate(unlike)}
        for n, (first, second) in enumerate(matches):
            chances = chances_by_principle(of_match.get(n, [0.5] * per_match))
            if (mean := present_mean(chances)) is not None:
                for into, value in ((won, winner(chances)), (means, mean)):
                    into[first].append(value)
                    into[second].append(1 - value)
        scored = self.with_score(row, [present_mean(wins) for wins in won], judgements)
        *before, score = scored.scores
        of_means = {
            "scorer": part_label(self.label, MEAN),
            "values": tuple(present_mean(each) for each in means),
        }
        return scored.model_copy(update={"scores": (*before, score.model_copy(update=of_means), score)})

    def ask(self, row: ScoredPool, first: str, second: str, principle: str) -> Request:
        prompt = load("self_judge/reasoned" if self.rationale else "self_judge/compare")
        return Request(
            role=self.role,
            messages=prompt.render(row=row, first=first, second=second, principle=principle),
            sampling=self.sampling if self.rationale else one_token(self.sampling.seed),
            optional=True,
        )

    def chance(self, completion: Completion) -> float | None:
        return chance_of_first(completion, self.least_mass)


class SelfJudgeSettings(JudgeSettings):
    """The share of wins in comparisons under several principles, by a majority of them."""

    kind: Literal["self-judge"] = "self-judge"
    principles: Principles = PRINCIPLES
    rationale: bool = Field(False, description="reasons before each verdict, instead of one token")
    opponents: Opponents = 0
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    least_mass: LeastMass = LEAST_MASS

    @property
    def labels(self) -> tuple[str, ...]:
        return (part_label(self.label, MEAN), self.label)

    def stage(self, context: ScoringContext) -> PrincipledScores:
        fields = ("principles", "rationale", "opponents", "attempts", "least_mass")
        return PrincipledScores(
            **self.shared_fields(context),
            sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed),
            **{name: getattr(self, name) for name in fields},
        )


def chances_by_principle(verdicts: Sequence[float | None]) -> list[float]:
    """The first answer's chance under each principle, the mean of both orders; those that lack one are left out.
    verdicts: of both orders of each principle, one after the other.
    """
    pairs = zip(verdicts[::2], verdicts[1::2], strict=True)
    return [(forth + 1 - back) / 2 for forth, back in pairs if forth is not None and back is not None]


def winner(chances: Sequence[float]) -> float:
    """1 where the first answer wins under most principles, 0 where the second does; of an even vote by the mean;
    0.5 where that is even, too.
    """
    votes = sum((chance > 0.5) - (chance < 0.5) for chance in chances)
    lead = votes or sum(chances) / len(chances) - 0.5
    return 0.5 if not lead else float(lead > 0)
