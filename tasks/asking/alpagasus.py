"""A judge's rating of rows, 0 to 5. Source: docs/papers.md#alpagasus."""

from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import TableRow
from synthmill.schemas.texts import one_line
from synthmill.tasks.asking.row_chats import RowRecipe
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps, ask_until, read_json

SCORE = {"type": "number", "minimum": 0, "maximum": 5}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"score": SCORE, "explanation": {"type": "string", "maxLength": 1000}},
    "required": ["score", "explanation"],
    "additionalProperties": False,
}


class AlpaGasus(RowRecipe):
    """Prompts with answers, or chats -> the same with a rating from 0 to 5 (a column called as the step) and its
    explanation; `at_least` with the value 4.5 is the paper's cut. Drops: empty_prompt, empty_answer, no_score.
    """

    name: ClassVar = "alpagasus"
    version: ClassVar = "1"
    prompts: ClassVar = {"alpagasus/rate": ("instruction", "answer", "quality")}

    label: str = "alpagasus"
    quality: str = Field("accuracy", min_length=1, description="what is rated; the paper's accuracy")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)

    def requests_per_row(self) -> int:
        return self.attempts

    def new_columns(self) -> pa.Schema:
        return pa.schema([(self.label, pa.float64()), (f"{self.label}_explanation", pa.string())])

    def steps(self, row: TableRow) -> Steps[TableRow]:
        chat = self.chat_of(row)
        messages = load("alpagasus/rate").render(
            row=row, instruction=chat.instruction, answer=chat.answer, quality=self.quality
        )
        request = Request(role="judge", messages=messages, sampling=self.sampling, schema_=SCHEMA)
        score, explanation = yield from ask_until(request, self.attempts, read_rating)
        return self.filled(row, **{self.label: score, f"{self.label}_explanation": explanation})


def read_rating(completion: Completion) -> tuple[float, str]:
    """Raises Drop for anything but a number from 0 to 5."""
    fields = read_json(completion, "no_score")
    score = fields.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 5:
        raise Drop(f"no_score: its score was {score!r:.40}; expected a number from 0 to 5")
    return float(score), one_line(str(fields.get("explanation") or ""))
