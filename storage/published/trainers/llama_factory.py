"""LLaMA-Factory: ShareGPT turns and the `dataset_info.json` that names their columns.

Read: llamafactory 0.9.5, data/converter.py, data/parser.py, data/formatter.py. Odd places are human or observation,
even ones gpt or function_call, a system message only stands first, else a row is dropped with a warning; chosen and
rejected are one turn each; a column that `columns` does not name is left out silently; a function_call is JSON alone,
after thinking at most. Several results become one observation, joined as its own reader of OpenAI's form joins them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import Chat, chats_in, functions_of
from synthmill.storage.published.forms.messages import Frame, provenance_of, tools_of
from synthmill.storage.published.forms.sharegpt import NAMES, TURN, Turn, calls_text
from synthmill.storage.published.row_faults import CHATS
from synthmill.storage.published.trainer import EVERYTHING, Form, Trainer, Written, names_by_use

BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
PROMPTS, ANSWERS = ("human", "observation"), ("gpt", "function_call")
STAGES: Mapping[Use, str] = {"sft": "sft", "pairs": "dpo", "kto": "kto", "reward": "rm"}


def turns_of(chat: Chat) -> list[Turn]:
    """A chat's turns: what is beside a call is thinking, and results that follow each other are one."""
    turns: list[Turn] = []
    for message in chat:
        value, calls = message["content"], functions_of(message)
        if message["role"] == "tool" and turns and turns[-1]["from"] == "observation":
            turns[-1]["value"] += f"{BETWEEN_RESULTS}{value}"
        else:
            name = "function_call" if calls else NAMES[message["role"]]
            turns.append({"from": name, "value": value + calls_text(calls) if calls else value})
    return turns


def conversations(chats: pl.Series) -> pl.Series:
    return pl.Series("conversations", [turns_of(chat) for chat in chats_in(chats)], pl.List(TURN))


def sft(rows: Frame) -> Frame:
    return rows.select(*provenance_of(rows), *tools_of(rows), conversations(rows["messages"]))


def pairs(rows: Frame) -> Frame:
    """The prompt's turns, and one turn for each side."""
    sides = (pl.Series(side, [turns_of(chat)[-1] for chat in chats_in(rows[side])], TURN) for side in CHATS[2:4])
    return rows.select(*provenance_of(rows), *tools_of(rows), conversations(rows["prompt"]), *sides)


def kto(rows: Frame) -> Frame:
    """Whole conversations, with `kto_tag`."""
    both = (chats_in(rows[name]) for name in ("prompt", "completion"))
    turns = [turns_of([*prompt, *answer]) for prompt, answer in zip(*both, strict=True)]
    column = pl.Series("conversations", turns, pl.List(TURN))
    return rows.select(*provenance_of(rows), *tools_of(rows), column, kto_tag="label")


def order_fault(row: Mapping[str, Any]) -> str:
    """Why the reader would drop a row: its turns do not take turns."""
    ends = [row[name] for name in ("chosen", "rejected", "completion") if name in row] or [[]]
    for end in ends:
        turns = turns_of([*row.get("messages", row.get("prompt", [])), *end])
        rest = turns[1:] if turns and turns[0]["from"] == "system" else turns
        if any(turn["from"] not in (ANSWERS if place % 2 else PROMPTS) for place, turn in enumerate(rest)):
            return "turns that do not alternate between user or tool and assistant"
    return ""


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    entries = {name: entry(table, file) for table in tables for name, file in names_of(table).items()}
    return {"dataset_info.json": json.dumps(entries, indent=2).encode()}


def names_of(table: Written) -> dict[str, str]:
    """What `dataset_info.json` calls a table's files: NAME and NAME_test, and from the second file on with a number."""
    return {
        name + (f"_{number}" if number > 1 else ""): file
        for name, files in ((table.name, table.train), (f"{table.name}_test", table.test))
        for number, file in enumerate(files, 1)
    }


def entry(table: Written, file: str) -> dict[str, Any]:
    """What `dataset_info.json` says of a file."""
    sides = ("chosen", "rejected") if table.use in ("pairs", "reward") else ()
    names = ("tools", "kto_tag", *sides)
    columns = {"messages": "conversations"} | {name: name for name in names if name in table.columns}
    ranking = {"ranking": True} if sides else {}
    return {"file_name": file, "formatting": "sharegpt", **ranking, "columns": columns}


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "`dataset_dir: FOLDER`, with `dataset_info.json` in it, and:"
    yield ""
    for use, of_use, names in names_by_use(tables):
        last = [f"`{table.name}`" for table in of_use if "learned_from" in table.made_of]
        masked = f"; `mask_history: true` with {', '.join(last)}: the last answer alone is learned" if last else ""
        yield f"- `stage: {STAGES[use]}`, `dataset:` {names}{masked}"
    if any(len(table.train) > 1 for table in tables):
        yield "- The further files of a NAME are `NAME_2`, `NAME_3`, ...: `dataset: NAME,NAME_2`."


HOLDS = EVERYTHING - {"text beside a call", "an answer of several messages"}
TRAINER = Trainer(
    "LLaMA-Factory",
    "0.9.5",
    {
        "sft": Form(sft, HOLDS, fault=order_fault),
        "pairs": Form(pairs, HOLDS, fault=order_fault),
        "kto": Form(kto, HOLDS, fault=order_fault),
        "reward": Form(pairs, HOLDS, fault=order_fault),
    },
    readme,
    beside,
    thinking="text",
)
