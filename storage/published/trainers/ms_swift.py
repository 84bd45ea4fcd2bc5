"""ms-swift: its own messages, in which each call is a turn, with the command that reads them.

Read: ms_swift 4.6.0, dataset/preprocessor/core.py, template/template_inputs.py. A message keeps role, content and loss;
calls are turns of the role tool_call, JSON as text, several in a row, after a turn with the text beside them; DPO and
reward models read `messages` with the chosen answer and `rejected_messages`, whose tools are those of `rejected_tools`
alone, KTO `messages` and `label`. TRL's explicit `prompt` is taken for the text of a user's message.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import Chat, chats_in, functions_of
from synthmill.storage.published.forms.messages import Frame, provenance_of, tools_of
from synthmill.storage.published.trainer import Form, Trainer, Written, names_by_use

MESSAGE = {"role": pl.String(), "content": pl.String()}
ROLES = {"tool": "tool_response"}
COMMANDS: Mapping[Use, str] = {
    "sft": "swift sft",
    "pairs": "swift rlhf --rlhf_type dpo",
    "kto": "swift rlhf --rlhf_type kto",
    "reward": "swift rlhf --rlhf_type rm",
    "prompts": "swift rlhf --rlhf_type grpo",
}


def turns_of(chat: Chat, learned_from: int | None = None) -> Iterator[dict[str, Any]]:
    """A chat's messages; learned_from: the place of the first one to learn from, where rows say so."""
    for place, message in enumerate(chat):
        loss = {} if learned_from is None else {"loss": place >= learned_from}
        calls = functions_of(message)
        if message["content"] or not calls:
            yield {"role": ROLES.get(message["role"], message["role"]), "content": message["content"], **loss}
        for call in calls:
            yield {"role": "tool_call", "content": json.dumps(call, ensure_ascii=False), **loss}


def sft(rows: Frame) -> Frame:
    """`messages`, each with whether it is learned, where rows say so."""
    with_loss = "learned_from" in rows.columns
    places = rows["learned_from"].to_list() if with_loss else [None] * rows.height
    chats = [list(turns_of(*row)) for row in zip(chats_in(rows["messages"]), places, strict=True)]
    kind = pl.List(pl.Struct(MESSAGE | ({"loss": pl.Boolean()} if with_loss else {})))
    return with_chats(rows, pl.Series("messages", chats, kind))


def conversations(rows: Frame, name: str, answer: str = "") -> pl.Series:
    """Prompts, with an answer each, as a column."""
    prompts = chats_in(rows["prompt"])
    answers = chats_in(rows[answer]) if answer else [[]] * len(prompts)
    chats = [list(turns_of([*prompt, *end])) for prompt, end in zip(prompts, answers, strict=True)]
    return pl.Series(name, chats, pl.List(pl.Struct(MESSAGE)))


def with_chats(rows: Frame, *columns: pl.Series | pl.Expr) -> Frame:
    return rows.select(*provenance_of(rows), *tools_of(rows), *columns)


def pairs(rows: Frame) -> Frame:
    chosen, rejected = ("messages", "chosen"), ("rejected_messages", "rejected")
    tools = {"rejected_tools": pl.col("tools")} if "tools" in rows.columns else {}
    return with_chats(rows, conversations(rows, *chosen), conversations(rows, *rejected)).with_columns(**tools)


def kto(rows: Frame) -> Frame:
    return with_chats(rows, conversations(rows, "messages", "completion"), pl.col("label"))


def prompts(rows: Frame) -> Frame:
    return with_chats(rows, conversations(rows, "messages"))


def command(table: Written) -> str:
    validation = ["--val_dataset", *table.test] if table.test else []
    return " ".join([COMMANDS[table.use], "--model MODEL", "--dataset", *table.train, *validation])


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    lines = [f"# {table.name}\n{command(table)}\n" for table in tables]
    return {"train.sh": "".join(["# in this folder; add your own settings\n", *lines]).encode()}


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "The commands are in `train.sh`, to be run in this folder; KTO and GRPO want further settings of yours:"
    yield ""
    yield from (f"- `{COMMANDS[use]}`: {names}" for use, _, names in names_by_use(tables))


TRAINER = Trainer(
    "ms-swift",
    "4.6.0",
    {"sft": Form(sft), "pairs": Form(pairs), "kto": Form(kto), "reward": Form(pairs), "prompts": Form(prompts)},
    readme,
    beside,
    thinking="text",
)
