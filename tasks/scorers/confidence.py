"""How sure a model is of answers: P(True), a percentage in words, and how many other samples say the same.

Source: docs/papers.md#confidence.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Completion, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.schemas.texts import normalised
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, mean_verdicts
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.labels import LEAST_MASS, LeastMass, one_token
from synthmill.tasks.scorers.matches import chance_of_first
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.scorers.verdicts import TAG, plain, refuse_two

PERCENT = re.compile(r"[^\w-]*(?<![.,-])(100|[1-9]?\d)\s*(?:%|/\s*100)?[\s.)\]]*")
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
SAID = re.compile(r"(?:final\s+)?answer(?:\s+is|\s*[:=])\s*(.+?)\s*(?:\n|$)", re.IGNORECASE)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class TruthScores(AnswerJudge):
    """Pools -> the same, each answer's P(True): the probability that the model's one letter says true.

    Without logprobs it is 1 or 0. An empty answer is 0 without a call.
    """

    name: ClassVar = "truth_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"confidence/is_true": ("answer",)}

    label: str = "p_true"
    least_mass: LeastMass = LEAST_MASS
    sampling: Sampling = one_token(0)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        def read(completion: Completion) -> float | None:
            return chance_of_first(completion, self.least_mass)

        judgements = Judgements()
        verdicts = yield from self.model_copy(update={"attempts": 1}).judge_answers(row, judgements, read)
        return self.with_score(row, mean_verdicts(verdicts, 0), judgements)


class PercentScores(AnswerJudge):
    """Pools -> the same, each answer's chance to be right in the model's own words, 0 to 1, averaged."""

    name: ClassVar = "percent_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"confidence/percent": ("answer",)}

    label: str = "verbalised"
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=512)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements = Judgements()
        verdicts = yield from self.judge_answers(row, judgements, percentage_of)
        return self.with_score(row, mean_verdicts(verdicts, 0), judgements)


class ConsistencyScores(FrameScorer):
    """Pools -> the same, the share of a prompt's answers that end in the same final answer as each one.

    An empty answer has 0, and counts among the others. A pool of one answer has no score.
    """

    name: ClassVar = "consistency_scores"
    version: ClassVar = "1"

    label: str = "self_consistency"

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        for pool in pools:
            finals = [final_answer(answer["text"]) for answer in pool["answers"]]
            counts = Counter(finals)
            shares = [counts[final] / len(finals) if final else 0.0 for final in finals]
            yield shares if len(finals) > 1 else [None] * len(finals)


class TruthSettings(JudgeSettings):
    """P(True): the probability that a model calls an answer true, from one token."""

    kind: Literal["p-true"] = "p-true"
    least_mass: LeastMass = LEAST_MASS

    def stage(self, context: ScoringContext) -> TruthScores:
        own = {"sampling": one_token(context.seed), "least_mass": self.least_mass}
        return TruthScores(**self.shared_fields(context), **own)


class PercentSettings(JudgeSettings):
    """A model's own percentage that an answer is right, as 0 to 1."""

    kind: Literal["verbalised"] = "verbalised"
    evaluations: int = Field(1, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    temperature: float = Field(1.0, ge=0, description="how far the judgements of an answer may differ")

    def stage(self, context: ScoringContext) -> PercentScores:
        sampling = Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed)
        own = {"evaluations": self.evaluations, "attempts": self.attempts, "sampling": sampling}
        return PercentScores(**self.shared_fields(context), **own)


class ConsistencySettings(ScorerSettings):
    """The share of a prompt's answers that end in the same final answer: self-consistency, without a model."""

    kind: Literal["self-consistency"] = "self-consistency"

    def stage(self, context: ScoringContext) -> ConsistencyScores:
        return ConsistencyScores(label=self.label)


def percentage_of(completion: Completion) -> float | None:
    """The percentage after the last [RESULT], as 0 to 1. Raises Drop for none, for no whole one, and for two."""
    if completion.error:
        return None
    *before, verdict = TAG.split(plain(completion.text))
    match = PERCENT.fullmatch(verdict.strip()) if before else None
    if not match:
        percentage = verdict.strip()[:40] if before else ""
        raise Drop(f"no_score: its percentage was {percentage!r}; end with [RESULT] and a whole number from 0 to 100")
    earlier = (PERCENT.fullmatch(part.strip().partition("\n")[0]) for part in before[1:])
    refuse_two({number[1] for number in earlier if number} | {match[1]})
    return int(match[1]) / 100


def final_answer(text: str) -> str:
    """What an answer comes to: its last box, what follows the last "answer is", its last number, or all of it."""
    if boxes := BOXED.findall(text):
        final = boxes[-1]
    elif conclusions := SAID.findall(text):
        final = conclusions[-1]
    elif numbers := NUMBER.findall(text):
        final = numbers[-1]
    else:
        final = text
    final = normalised(final).strip(" .!*$")
    return final.replace(",", "") if NUMBER.fullmatch(final) else final
