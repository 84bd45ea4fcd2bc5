"""OpenAI's fine-tuning, supervised and on preferences, by its documented lines.

A line has no key but messages and tools, or input, preferred_output and non_preferred_output, of one answer each. An
answer whose weight is 0 is not learned.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import chat_type
from synthmill.storage.published.forms.messages import Frame
from synthmill.storage.published.forms.openai import OBJECTS, openai
from synthmill.storage.published.thinking import fields_of
from synthmill.storage.published.trainer import EVERYTHING, Form, Trainer, Written, names_by_use

METHODS: Mapping[Use, str] = {"sft": "supervised", "pairs": "dpo"}


def sft(rows: Frame) -> Frame:
    """`messages` and `tools`; answers of a prompt weigh nothing."""
    conversations = openai(rows, "conversations")
    if "learned_from" not in rows.columns:
        return conversations
    chats = [
        [{**message, "weight": weight_of(message, place < start)} for place, message in enumerate(chat)]
        for chat, start in zip(rows["messages"].to_list(), rows["learned_from"].to_list(), strict=True)
    ]
    kind = chat_type(fields_of(rows.schema["messages"]), weight=pl.Int64())
    return conversations.with_columns(pl.Series("messages", chats, kind))


def weight_of(message: Mapping[str, Any], in_prompt: bool) -> int | None:
    return 0 if in_prompt and message["role"] == "assistant" else None


def pairs(rows: Frame) -> Frame:
    return openai(rows, "preferences")


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "Upload `NAME/train.jsonl` with the purpose `fine-tune`; ids lie in `ids/`, line by line."
    yield ""
    yield from (f"- `{METHODS[use]}`: {names}" for use, _, names in names_by_use(tables))


ONE_ANSWER = EVERYTHING - {"an answer of several messages"}
TRAINER = Trainer(
    "OpenAI's fine-tuning",
    "the documentation's",
    {
        "sft": Form(sft, EVERYTHING, lines="sparse", objects=OBJECTS, with_ids=False),
        "pairs": Form(pairs, ONE_ANSWER, lines="sparse", objects=OBJECTS, with_ids=False),
    },
    readme,
    thinking="drop",
    one_file=True,
)
