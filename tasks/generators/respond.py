"""A response to each prompt, beside all the columns that its row has."""

from typing import ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction, Row, Thinking
from synthmill.tasks.generators.answers import answer_request
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.texts.thinking import why_empty


class Responded(Row):
    """A row with its response."""

    response: str
    finish_reason: str = ""
    reasoning: Thinking = None


class Respond(Recipe[Instruction, Responded]):
    """Prompt -> the same row with a `response`. Drops, after `attempts` tries: empty_answer, or the engine's fault."""

    name: ClassVar = "respond"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    keeps_columns: ClassVar = True

    attempts: int = Field(2, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Instruction) -> Steps[Responded]:
        request = answer_request(row, "teacher", self.sampling)
        answer = yield from ask_until(request, self.attempts, answered)
        return Responded(
            id=row.id,
            parent_id=row.parent_id,
            response=answer.text.strip(),
            finish_reason=answer.finish_reason,
            reasoning=answer.reasoning or None,
        )


def answered(completion: Completion) -> Completion:
    """A completion with a text. Raises Drop for any other."""
    if completion.error or not completion.text.strip():
        raise Drop(completion.error or why_empty(completion))
    return completion
