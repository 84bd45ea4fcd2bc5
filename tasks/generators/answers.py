"""N answers to one prompt: a pool."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from schemas.calls import Completion, Message, Request, Sampling
from schemas.errors import Drop
from schemas.pools import PolicyAnswer, Question, ScoredPool
from schemas.rows import Answer, Instruction, Pool
from tasks.recipe import Recipe, Steps


class Answers(Recipe[Instruction, Pool]):
    """Instruction -> its pool of `count` answers, each stored by itself, so that a longer pool later costs only the
    difference.

    An answer that cannot be had (context overflow, an engine's error) or is empty is left out; the pool is kept if at
    least `min_answers` came. Source: docs/papers.md#rip, step 1.
    """

    name: ClassVar = "answers"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    count: int = Field(4, ge=1)
    min_answers: int = Field(1, ge=1)

    def requests_per_row(self) -> int:
        return self.count

    def steps(self, row: Instruction) -> Steps[Pool]:
        said = yield asked_of(row, "student", self.sampling).sampled(self.count)
        answers = tuple(Answer(**fields) for fields in answers_in(said))
        check_enough(len(answers), self.min_answers, said)
        return Pool.child_of(row, self.name, answers=answers)


class PoolAnswers(Recipe[Question, ScoredPool]):
    """Question -> its pool: `count` answers of each policy, one policy after the other. Otherwise as Answers."""

    name: ClassVar = "answer_pool"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    policies: tuple[str, ...] = ("student",)
    count: int = Field(16, ge=1)
    min_answers: int = Field(2, ge=1)

    def needs_roles(self) -> tuple[str, ...]:
        return self.policies

    def requests_per_row(self) -> int:
        return self.count * len(self.policies)

    def steps(self, row: Question) -> Steps[ScoredPool]:
        requests = [one for policy in self.policies for one in asked_of(row, policy, self.sampling).sampled(self.count)]
        said = yield requests
        answers = tuple(
            PolicyAnswer(**fields, policy=requests[fields["answer_index"]].role) for fields in answers_in(said)
        )
        check_enough(len(answers), self.min_answers, said)
        return ScoredPool.child_of(row, self.name, answers=answers)


def asked_of(row: Instruction, role: str, sampling: Sampling) -> Request:
    """A row's prompt, under its system message, as a request that may fail."""
    user = Message(role="user", content=row.prompt)
    messages = (Message(role="system", content=row.system), user) if row.system else (user,)
    return Request(role=role, messages=messages, sampling=sampling, optional=True)


def answers_in(said: Sequence[Completion]) -> Iterator[dict[str, Any]]:
    """The fields of the answers that came and are not empty, with their places among all."""
    for n, one in enumerate(said):
        if not one.error and one.text.strip():
            named = {"finish_reason": one.finish_reason, "completion_tokens": one.completion_tokens}
            yield {"answer_index": n, "text": one.text, **named}


def check_enough(answers: int, fewest: int, said: Sequence[Completion]) -> None:
    """Raises Drop when too few answers came, with what was wrong with the others."""
    if answers < fewest:
        faults = sorted({one.error or "empty_answer" for one in said if one.error or not one.text.strip()})
        many = f"too_few_answers: {answers} of {len(said)}; {'; '.join(faults)}"
        raise Drop(faults[0] if len(said) == 1 else many)
