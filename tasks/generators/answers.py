"""N answers to one prompt: a pool."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import PolicyAnswer, Question, ScoredPool
from synthmill.schemas.rows import Answer, Instruction, Pool
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.texts.thinking import is_named, why_empty


class Answers(Recipe[Instruction, Pool]):
    """Instruction -> its pool of `count` answers, each cached by itself: a longer pool later costs only the difference.

    Empty answers and failed ones (context overflow, an engine's error) are left out. The row is dropped if fewer than
    `min_answers` are left. Source: docs/papers.md#rip, step 1.
    """

    name: ClassVar = "answers"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    count: int = Field(4, ge=1)
    min_answers: int = Field(1, ge=1)

    def requests_per_row(self) -> int:
        return self.count

    def steps(self, row: Instruction) -> Steps[Pool]:
        completions = yield answer_request(row, "student", self.sampling).sampled(self.count)
        answers = tuple(Answer(**fields) for fields in usable_answers(completions))
        check_enough(len(answers), self.min_answers, completions)
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
        asks = [answer_request(row, policy, self.sampling) for policy in self.policies]
        requests = [request for ask in asks for request in ask.sampled(self.count)]
        completions = yield requests
        answers = tuple(
            PolicyAnswer(**fields, policy=requests[fields["answer_index"]].role)
            for fields in usable_answers(completions)
        )
        check_enough(len(answers), self.min_answers, completions)
        return ScoredPool.child_of(row, self.name, answers=answers)


def answer_request(row: Instruction, role: str, sampling: Sampling) -> Request:
    """A row's prompt, under its system message, as a request that may fail."""
    user = Message(role="user", content=row.prompt)
    messages = (Message(role="system", content=row.system), user) if row.system else (user,)
    return Request(role=role, messages=messages, sampling=sampling, optional=True)


def usable_answers(completions: Sequence[Completion]) -> Iterator[dict[str, Any]]:
    """The fields of each answer that is neither failed nor empty, with its index among all."""
    for index, completion in enumerate(completions):
        if not completion.error and completion.text.strip():
            usage = {"finish_reason": completion.finish_reason, "completion_tokens": completion.completion_tokens}
            yield {
                "answer_index": index,
                "text": completion.text,
                **usage,
                "reasoning": completion.reasoning or None,
            }


def check_enough(answers: int, fewest: int, completions: Sequence[Completion]) -> None:
    """Raises Drop when there are fewer answers than `fewest`, with the faults of the other completions."""
    if answers < fewest:
        failed = [completion for completion in completions if completion.error or not completion.text.strip()]
        faults = sorted({completion.error or why_empty(completion) for completion in failed})
        if not answers and len(faults) == 1 and is_named(failed[0]):
            raise Drop(faults[0])
        message = f"too_few_answers: {answers} of {len(completions)}; {'; '.join(faults)}"
        raise Drop(faults[0] if len(completions) == 1 else message)
