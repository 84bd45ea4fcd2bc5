"""N answers to one prompt: a pool."""

from typing import ClassVar

from pydantic import Field

from schemas.calls import Message, Request
from schemas.errors import Drop
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
        user = Message(role="user", content=row.prompt)
        messages = (Message(role="system", content=row.system), user) if row.system else (user,)
        request = Request(role="student", messages=messages, sampling=self.sampling, optional=True)
        said = yield request.sampled(self.count)
        answers = tuple(
            Answer(
                answer_index=n, text=one.text, finish_reason=one.finish_reason, completion_tokens=one.completion_tokens
            )
            for n, one in enumerate(said)
            if not one.error and one.text.strip()
        )
        if len(answers) < self.min_answers:
            faults = sorted({one.error or "empty_answer" for one in said if one.error or not one.text.strip()})
            reason = (
                faults[0] if len(said) == 1 else f"too_few_answers: {len(answers)} of {len(said)}; {'; '.join(faults)}"
            )
            raise Drop(reason)
        return Pool.child_of(row, self.name, answers=answers)
