"""SaySelf: an answer, what its author is unsure about, and a confidence, from answers to one prompt that differ.

Source: docs/papers.md#confidence.
"""

import re
from typing import ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import ScoredPool
from synthmill.schemas.rows import Instruction
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.scorers.confidence import final_answer

NAMED = re.compile(r"\[\d+\]")


class UnsureAnswer(Instruction):
    """A prompt with an answer, why its author is as sure as it is, and how sure, 0 to 1. completion: the three as one
    text, the confidence as a whole number of ten.
    """

    answer: str
    rationale: str
    confidence: float
    completion: str


class UncertaintyRationales(Recipe[ScoredPool, UnsureAnswer]):
    """Pool -> the answer that most of its samples agree with, and a rationale that `author` writes from one answer of
    each group that ends alike (`self-consistency`'s final answers), the `most` largest groups.

    confidence: the share of the answers in the largest group, or, with `score`, the first answer's of that group by
    that score, from 0 to 1. Of groups of one size the first counts. Drops: too_few_answers, no_confidence,
    no_rationale.
    """

    name: ClassVar = "uncertainty_rationales"
    version: ClassVar = "1"
    roles: ClassVar = ("author",)
    prompts: ClassVar = {"uncertainty/rationale": ("groups", "total")}

    sampling: Sampling = Sampling(temperature=0.7, top_p=1.0, max_tokens=512)
    score: str = Field("", description="a score of the pool, 0 to 1: calibrated confidence; default: the group's share")
    most: int = Field(5, ge=1, description="groups that the author sees")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: ScoredPool) -> Steps[UnsureAnswer]:
        groups: dict[str, list[int]] = {}
        for place, answer in enumerate(row.answers):
            if answer.text.strip() and answer.finish_reason != "length":
                groups.setdefault(final_answer(answer.text), []).append(place)
        largest = sorted(groups.values(), key=len, reverse=True)
        total = sum(map(len, largest))
        if total < 2:
            raise Drop(f"too_few_answers: {total} of {len(row.answers)} are whole; expected two, to compare them")
        first = largest[0][0]
        confidence = self.confidence_of(row, first) if self.score else len(largest[0]) / total
        shown = [(row.answers[places[0]].text.strip(), len(places)) for places in largest[: self.most]]
        messages = load("uncertainty/rationale").render(row=row, groups=shown, total=total)
        request = Request(role="author", messages=messages, sampling=self.sampling)
        rationale = yield from ask_until(request, self.attempts, read_rationale)
        answer_text = shown[0][0]
        completion = f"{answer_text}\n\n{rationale}\n\nConfidence: {int(10 * confidence + 0.5)}/10"
        fields = {"answer": answer_text, "rationale": rationale, "confidence": confidence, "completion": completion}
        return UnsureAnswer.child_of(row, self.name, **fields)

    def confidence_of(self, row: ScoredPool, place: int) -> float:
        """An answer's confidence by a score of its pool. Raises Drop where there is none from 0 to 1."""
        values = next((score.values for score in reversed(row.scores) if score.scorer == self.score), None)
        value = values[place] if values else None
        if value is None or not 0 <= value <= 1:
            raise Drop(f"no_confidence: {self.score!r} is {value} for the answer; expected a number from 0 to 1")
        return value


def read_rationale(completion: Completion) -> str:
    """Why somebody is unsure. Raises Drop where it was cut, is empty, or names answers by number."""
    text = completion.text.strip()
    if completion.finish_reason == "length":
        raise Drop("no_rationale: it was cut, because it was too long; be shorter")
    if not text:
        raise Drop("no_rationale: it was empty; write two to four sentences")
    if match := NAMED.search(text):
        raise Drop(f"no_rationale: it named {match.group()}; speak of the matter, not of the numbered answers")
    return text
