"""ShareGPT's `conversations` of {from, value}, with a preference's `chosen` and `rejected`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from synthmill.storage.published.chats import chats_in, functions_of
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.forms.messages import Frame, provenance_of, sft, tools_of

NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
TURN = pl.Struct({"from": pl.String, "value": pl.String})
Turn = dict[str, str]


def sharegpt(rows: Frame, kind: Kind) -> Frame:
    """`conversations` of {from, value}; a preference has its prompt there, and one turn as `chosen` and `rejected`."""
    if kind == "preferences":
        sides = (answer_column(rows[side]) for side in ("chosen", "rejected"))
        return rows.select(*provenance_of(rows), *tools_of(rows)).with_columns(turns_column(rows["prompt"]), *sides)
    chats = sft(rows, kind)
    return chats.select(*provenance_of(chats), *tools_of(chats)).with_columns(turns_column(chats["messages"]))


def turns_column(chats: pl.Series) -> pl.Series:
    """Chats as `conversations`."""
    return pl.Series("conversations", [list(turns_of(chat)) for chat in chats_in(chats)], pl.List(TURN))


def answer_column(answers: pl.Series) -> pl.Series:
    """Answers as one turn each: the last one that the answer's last message becomes."""
    return pl.Series(answers.name, [[*turns_of(answer)][-1] for answer in chats_in(answers)], TURN)


def turns_of(messages: list[dict[str, Any]]) -> Iterator[Turn]:
    """Messages as turns; text beside calls becomes a turn before theirs."""
    for message in messages:
        functions = functions_of(message)
        if message["content"] or not functions:
            yield {"from": NAMES[message["role"]], "value": message["content"]}
        if functions:
            yield {"from": "function_call", "value": calls_text(functions)}


def calls_text(functions: list[Mapping[str, Any]] | list[dict[str, Any]]) -> str:
    """Calls as JSON: one as an object, several as a list."""
    return json.dumps(functions[0] if len(functions) == 1 else functions, ensure_ascii=False)
