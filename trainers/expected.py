"""What went in: a dataset's rows, read from its Parquet files without any of our forms, as chats for each use.

A row of sft and kto is {"sides": {"text": Chat}}, of pairs {"sides": {"chosen": Chat, "rejected": Chat}}; `first` of a
chat is the place of the message from which on it is to be learned.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from trainers.chats import Saying, of_messages, of_tools

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Chat:
    messages: Sequence[Message]
    tools: str | None = None
    first: int = 0

    def said(self) -> list[Saying]:
        """All that is said in it, the tools first where there are any."""
        return [*of_tools(self.tools), *of_messages(self.messages)]

    def learned(self) -> list[Saying]:
        """What is to be learned: the assistant's messages from `first` on."""
        learned = [message for message in self.messages[self.first :] if message["role"] == "assistant"]
        return list(of_messages(learned))

    def answered(self) -> list[Saying]:
        """What all of the assistant's messages say."""
        return list(of_messages([message for message in self.messages if message["role"] == "assistant"]))


@dataclass(frozen=True)
class Expected:
    """A row: its chats by side (text; chosen and rejected), or its texts; and what else comes with it."""

    sides: Mapping[str, Chat]
    label: bool | None = None
    texts: Sequence[str] = ()
    columns: Mapping[str, Any] | None = None


def rows_in(folder: Path, table: str) -> pl.DataFrame:
    """A table's training rows; chats are lists of dicts, whatever Parquet has."""
    named = folder / "data" / table
    rows = pl.read_parquet((named if named.is_dir() else folder / "data") / "train-*.parquet")
    return rows.with_columns(
        pl.Series(name, [chat_of(chat) for chat in rows[name].to_list()], dtype=pl.Object)
        for name in ("messages", "prompt", "completion", "chosen", "rejected")
        if name in rows.columns and isinstance(rows.schema[name], pl.List)
    )


def chat_of(chat: Sequence[Any]) -> list[dict[str, Any]]:
    return [json.loads(message) if isinstance(message, str) else message for message in chat]


def up_to_answer(chat: Sequence[Message]) -> Sequence[Message]:
    places = [place for place, message in enumerate(chat) if message["role"] == "assistant"]
    return chat[: places[-1] + 1] if places else []


def prompt_of(row: Mapping[str, Any]) -> list[Message]:
    if not isinstance(row["prompt"], str):
        return list(row["prompt"])
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": row["prompt"]}]


def expected(folder: Path, table: str, use: str) -> list[Expected]:
    """What a reader should train on; nothing where the table cannot be used so."""
    rows = rows_in(folder, table).to_dicts()
    found = [row for rows_of in (USES[use](row) for row in rows) for row in rows_of]
    if use not in ("prompts", "self-distillation"):
        return found
    once = {str([chat.said() for chat in row.sides.values()]) + str(row.columns): row for row in found}
    return list(once.values())


def sft(row: Mapping[str, Any]) -> Iterator[Expected]:
    if "messages" in row:
        yield Expected({"text": Chat(up_to_answer(row["messages"]), row.get("tools"))})
    elif isinstance(answer := row.get("completion") or row.get("chosen"), list):
        prompt = prompt_of(row)
        yield Expected({"text": Chat([*prompt, *answer], row.get("tools"), len(prompt))})


def pairs(row: Mapping[str, Any]) -> Iterator[Expected]:
    if is_pair(row):
        prompt = prompt_of(row)
        yield Expected(
            {side: Chat([*prompt, *row[side]], row.get("tools"), len(prompt)) for side in ("chosen", "rejected")}
        )


def is_pair(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(name), list) for name in ("prompt", "chosen", "rejected"))


def kto(row: Mapping[str, Any]) -> Iterator[Expected]:
    if is_pair(row):
        prompt = prompt_of(row)
        for side in ("chosen", "rejected"):
            yield Expected({"text": Chat([*prompt, *row[side]], row.get("tools"), len(prompt))}, side == "chosen")


def prompts(row: Mapping[str, Any]) -> Iterator[Expected]:
    if row.get("prompt") and not {"policies", "rubrics"} & set(row):
        yield Expected({"text": Chat(prompt_of(row), row.get("tools"))})


def rl(row: Mapping[str, Any]) -> Iterator[Expected]:
    if row.get("verifier"):
        columns = {name: row.get(name) for name in ("answer", "verifier")}
        yield Expected({"text": Chat(prompt_of(row), row.get("tools"))}, columns=columns)


def distillation(row: Mapping[str, Any]) -> Iterator[Expected]:
    """The opening of a conversation, and in `columns` the context that its teacher sees: a system message, or of
    dialogues that were kept the application's prompt.
    """
    if {"context", "pseudo_input"} <= set(row):
        if row.get("kept", True):
            opening = [{"role": "user", "content": row["pseudo_input"]}]
            yield Expected({"text": Chat(opening)}, columns={"context": row["context"]})
        return
    chat = row.get("messages") or (prompt_of(row) if isinstance(row.get("prompt"), list) else [])
    system = [message["content"] for message in chat if message["role"] == "system"]
    turns = [message for message in chat if message["role"] != "system"]
    answer = next((place for place, message in enumerate(turns) if message["role"] != "user"), len(turns))
    if system and turns[:answer]:
        yield Expected({"text": Chat(turns[:answer])}, columns={"context": "\n\n".join(system)})


def triplets(row: Mapping[str, Any]) -> Iterator[Expected]:
    names = ("anchor", "positive", "negative")
    if all(name in row for name in names):
        yield Expected({}, texts=[row[name] for name in names])


USES = {
    "sft": sft, "pairs": pairs, "reward": pairs, "kto": kto, "prompts": prompts, "rl": rl, "triplets": triplets,
    "self-distillation": distillation,
}  # fmt: skip
