"""Judges that compare two answers, in both orders: by one letter, or by a verdict with reasons under a rubric.

Sources: docs/papers.md#self-judge, #prometheus (relative form).
"""

import re
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Self

from pydantic import model_validator

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.multifaceted import Rubric
from synthmill.schemas.pools import ScoredPool
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, MaxTokens, RubricOf
from synthmill.tasks.scorers.labels import FIRST, LEAST_MASS, SECOND, LeastMass, chances_of, one_token
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.shared_first import PoolJudge, PoolJudgeSettings
from synthmill.tasks.scorers.verdicts import TAG, refuse_two

LETTERS = FIRST + SECOND
MARKS = " \n:*()[].\"'"
EARLIER = re.compile(rf"[{re.escape(MARKS)}]*([{LETTERS}])\b[^\w\n]*(?:but|no|wait|then|so)?[^\w\n]*(?:\n|\Z)")
"""A letter alone on its line, or given up in a word."""


class MatchJudge(PoolJudge):
    """Compares two answers: by one letter and its probability, or, with a rubric, by a verdict with reasons."""

    prompts: ClassVar = {
        "pools/compare": ("first", "second", "rubric"),
        "pools/prefer": ("first", "second", "rubric"),
    }

    rubric: Rubric | None = None
    least_mass: LeastMass = LEAST_MASS

    def prompt(self) -> str:
        return "pools/prefer" if self.rubric else "pools/compare"

    def judge_matches(
        self, row: ScoredPool, matches: Sequence[tuple[int, int]], judgements: Judgements
    ) -> Generator[list[Request], list[Completion], list[float | None]]:
        """Per match, the first answer's chance to win. Equal texts tie without a call."""
        differing = [n for n, (i, j) in enumerate(matches) if row.answers[i].text != row.answers[j].text]
        requests = [
            self.request(row, first=row.answers[i].text, second=row.answers[j].text, rubric=self.rubric)
            for n in differing
            for i, j in (matches[n], matches[n][::-1])
        ]

        def read_letter(completion: Completion) -> float | None:
            return chance_of_first(completion, self.least_mass)

        attempts, parse = (self.attempts, verdict_of) if self.rubric else (1, read_letter)
        verdicts = yield from judgements.ask(requests, attempts, parse)
        chances: list[float | None] = [0.5] * len(matches)
        for n, forth, back in zip(differing, verdicts[::2], verdicts[1::2], strict=True):
            chances[n] = None if forth is None or back is None else (forth + 1 - back) / 2
        return chances


class MatchSettings(PoolJudgeSettings):
    """The settings that all judges share which compare answers."""

    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    rubric: RubricOf = None
    least_mass: LeastMass = LEAST_MASS

    @model_validator(mode="after")
    def reasons_need_a_rubric(self) -> Self:
        for name in () if self.rubric else ("attempts", "max_tokens"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without a rubric: {self.kind} is judged by one letter then")
        return self

    def shared_fields(self, context: ScoringContext) -> dict[str, Any]:
        reasoned = Sampling(temperature=1.0, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed)
        sampling = reasoned if self.rubric else one_token(context.seed)
        fields = {"sampling": sampling, "attempts": self.attempts, "rubric": self.rubric, "least_mass": self.least_mass}
        return {**super().shared_fields(context), **fields}


def pairs_to_judge(count: int, opponents: int = 0) -> list[tuple[int, int]]:
    """Pairs of places: all of them, or each answer with the `opponents` that follow it in a ring."""
    if not opponents or 2 * opponents >= count - 1:
        return [(first, second) for first in range(count) for second in range(first + 1, count)]
    return [(first, (first + n) % count) for first in range(count) for n in range(1, opponents + 1)]


def chance_of_first(completion: Completion, least_mass: float = LEAST_MASS) -> float | None:
    """The probability of A over B; None where the judge named neither, or was hardly about to."""
    return chances_of(completion, LETTERS, least_mass).get(FIRST)


def verdict_of(completion: Completion) -> float | None:
    """1 for A, 0 for B after the last [RESULT], None where the judge could not be asked. Raises Drop for neither, and
    where an earlier [RESULT] has the other letter.
    """
    if completion.error:
        return None
    *before, verdict = TAG.split(completion.text)
    letter = verdict.strip(MARKS)
    if not before or letter not in tuple(LETTERS):
        raise Drop("no_verdict: it named no better one; end with [RESULT] and the letter A or B, and nothing after it")
    earlier = (EARLIER.match(part) for part in before[1:])
    refuse_two({match[1] for match in earlier if match} | {letter})
    return float(letter == FIRST)
