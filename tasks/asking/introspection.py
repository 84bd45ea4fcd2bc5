"""An answer, reviewed and written anew by a model. Source: docs/papers.md#long-is-more."""

from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import TableRow
from synthmill.schemas.texts import normalised
from synthmill.tasks.asking.row_chats import RowRecipe
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps, ask_until, read_json

TEXT = {"type": "string", "minLength": 1}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"review": TEXT, "refined": TEXT},
    "required": ["review", "refined"],
    "additionalProperties": False,
}


class Introspection(RowRecipe):
    """Prompts with answers, or chats -> the same with a `review` of the answer, and the better one, `refined`. Drops:
    empty_prompt, empty_answer, bad_refinement (no JSON, the review again, or a part of the answer and nothing else).
    """

    name: ClassVar = "introspection"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"introspection/refine": ("instruction", "answer")}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    sampling: Sampling = Sampling(max_tokens=4096)

    def requests_per_row(self) -> int:
        return self.attempts

    def new_columns(self) -> pa.Schema:
        return pa.schema([("review", pa.string()), ("refined", pa.string())])

    def steps(self, row: TableRow) -> Steps[TableRow]:
        chat = self.chat_of(row)
        messages = load("introspection/refine").render(row=row, instruction=chat.instruction, answer=chat.answer)
        request = Request(role="teacher", messages=messages, sampling=self.sampling, schema_=SCHEMA)
        review, refined = yield from ask_until(
            request, self.attempts, lambda completion: read_refinement(completion, chat.answer)
        )
        return self.filled(row, review=review, refined=refined)


def read_refinement(completion: Completion, answer: str) -> tuple[str, str]:
    """(review, refined), of an answer. Raises Drop."""
    fields = read_json(completion, "bad_refinement")
    review, refined = fields.get("review"), fields.get("refined")
    if not isinstance(review, str) or not isinstance(refined, str) or not refined.strip():
        raise Drop("bad_refinement: it had no texts `review` and `refined`")
    if normalised(review) == normalised(refined):
        raise Drop("bad_refinement: `refined` repeats the review; write the better answer")
    if normalised(refined) != normalised(answer) and normalised(refined) in normalised(answer):
        raise Drop("bad_refinement: `refined` is a part of the answer; write the whole answer, better")
    return review.strip(), refined.strip()
