"""How much an instruction helps a model to write its answer: IFD. Source: docs/papers.md#ifd."""

import math
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import SCORING, Message, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import TableRow
from synthmill.tasks.asking.row_chats import RowRecipe
from synthmill.tasks.engines.scored_answers import log_probability
from synthmill.tasks.recipe import Steps

COLUMNS = ("ifd", "loss", "loss_alone", "perplexity", "perplexity_alone")
MOST_LOSS = 700.0  # whose exponential a float holds


class FollowingDifficulty(RowRecipe):
    """Prompts with answers, or chats -> the same with `loss`, the mean negative log probability of the answer's tokens
    behind the instruction, `loss_alone`, behind an empty one, `ifd`, their ratio, and their perplexities. From 1 on, an
    instruction does not help; what is below and high is hard to follow.

    Drops: empty_prompt, empty_answer, zero_loss; no_logprobs, null_logprob, bad_logprob (as the engine gives them).
    """

    name: ClassVar = "following_difficulty"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    alone: str = Field("", description="the user's message in the place of the instruction, for loss_alone")

    def requests_per_row(self) -> int:
        return 2

    def tokens_per_row(self) -> int:
        return 2

    def new_columns(self) -> pa.Schema:
        return pa.schema([*((name, pa.float64()) for name in COLUMNS), ("answer_tokens", pa.int64())])

    def steps(self, row: TableRow) -> Steps[TableRow]:
        chat = self.chat_of(row)
        chats = (chat.messages, (Message(role="user", content=self.alone),))
        completions = yield [
            Request(role="student", messages=messages, sampling=SCORING, scored=chat.answer) for messages in chats
        ]
        loss, alone = (-log_probability(completion, per_token=True) for completion in completions)
        if alone <= 0:
            raise Drop("zero_loss: the model is sure of the answer without the instruction")
        values = (loss / alone, loss, alone, perplexity(loss), perplexity(alone))
        tokens = len(completions[0].logprobs or ())
        return self.filled(row, **dict(zip(COLUMNS, values, strict=True)), answer_tokens=tokens)


def perplexity(loss: float) -> float:
    return math.exp(min(loss, MOST_LOSS))
