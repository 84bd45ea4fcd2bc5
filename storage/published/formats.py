"""The formats that trainers read, made from a dataset's rows batch by batch: frame in, frame out, nothing lost but by
choice.

Every row keeps its `id`; where one row becomes two, theirs end in -chosen and -rejected. Source: docs/publishing.md.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson
import polars as pl

from schemas.errors import InputError
from schemas.formats import Format
from storage.published.folder import Content, Kind, Table, as_message
from storage.published.row_streams import RowStream

WITHOUT_IDS: tuple[Format, ...] = ("triplets", "openai")
"""Formats in which one more column would mean something: their ids lie beside them, ids/NAME-SPLIT.txt, line by line.
"""
NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
KEPT = ("id", "parent_id", "source")
Frame = pl.DataFrame


def kept(rows: Frame) -> list[str]:
    """Where a row comes from."""
    return [name for name in KEPT if name in rows.columns]


def is_answer(column: str) -> pl.Expr:
    return pl.col(column).list.last().struct.field("content")


def sft(rows: Frame, kind: Kind) -> Frame:
    """`messages`, for TRL's SFTTrainer, up to the last answer; a preference gives its chosen one."""
    if kind == "conversations":
        chats = pl.Series(
            "messages", [until_answer(chat) for chat in rows["messages"].to_list()], rows.schema["messages"]
        )
        return rows.with_columns(chats).filter(pl.col("messages").list.len() > 0)
    answer = "completion" if kind == "completions" else "chosen"
    return rows.select(*kept(rows), messages=pl.concat_list("prompt", answer))


def until_answer(chat: list[Any]) -> list[Any]:
    """A chat without what comes after its last answer: nothing there is to be learnt."""
    answers = [place for place, one in enumerate(chat) if as_message(one)["role"] == "assistant"]
    return chat[: answers[-1] + 1] if answers else []


def chats(rows: Frame) -> list[list[dict[str, Any]]]:
    return [[as_message(one) for one in chat] for chat in rows["messages"].to_list()]


def dpo(rows: Frame, _: Kind) -> Frame:
    """`prompt`, `chosen`, `rejected` as lists of messages, for DPO, ORPO and SimPO."""
    return rows


def dpo_plain(rows: Frame, _: Kind) -> Frame:
    """The same as texts, for trainers that apply no chat template."""
    return rows.select(
        *kept(rows),
        prompt=plain_prompt(rows),
        chosen=is_answer("chosen"),
        rejected=is_answer("rejected"),
    )


def kto(rows: Frame, _: Kind) -> Frame:
    """`prompt`, `completion`, `label`: each pair is a good and a bad answer."""
    sides = [
        rows.select(
            pl.format("{}-{}", "id", pl.lit(side)).alias("id"),
            *kept(rows)[1:],
            prompt="prompt",
            completion=side,
            label=pl.lit(side == "chosen"),
        )
        for side in ("chosen", "rejected")
    ]
    place = pl.int_range(pl.len())
    return (
        pl.concat([side.with_columns(place=place) for side in sides]).sort("place", maintain_order=True).drop("place")
    )


def reward(rows: Frame, _: Kind) -> Frame:
    """`chosen` and `rejected` as whole conversations, for RewardTrainer."""
    return rows.select(
        *kept(rows), chosen=pl.concat_list("prompt", "chosen"), rejected=pl.concat_list("prompt", "rejected")
    )


def prompts(rows: Frame, kind: Kind) -> Frame:
    """`prompt` as messages, each once, for online methods (GRPO, RLOO, online DPO)."""
    if kind == "prompts":
        user = pl.concat_list(message("user", "prompt"))
        system = pl.col("system") if "system" in rows.columns else pl.lit(None, pl.String)
        whole = pl.concat_list(pl.struct(role=pl.lit("system"), content=system), message("user", "prompt"))
        rows = rows.select(*kept(rows), prompt=pl.when(system.is_null()).then(user).otherwise(whole))
    return rows.select(*kept(rows), "prompt")


def triplets(rows: Frame, _: Kind) -> Frame:
    """`anchor`, `positive`, `negative`, for sentence-transformers; other columns would count as more negatives."""
    return rows.select("anchor", "positive", "negative", id="id")


def sharegpt(rows: Frame, kind: Kind) -> Frame:
    """`conversations` of {from, value}, and a preference's `chosen` and `rejected`, as LLaMA-Factory reads."""
    if kind == "preferences":
        said = pl.Series("conversations", [turns(prompt) for prompt in rows["prompt"].to_list()], pl.List(TURN))
        answers = [pl.Series(s, [turn(a[-1]) for a in rows[s].to_list()], TURN) for s in ("chosen", "rejected")]
        return rows.select(kept(rows)).with_columns(said, *answers)
    whole = sft(rows, kind)
    said = pl.Series("conversations", [turns(chat) for chat in chats(whole)], pl.List(TURN))
    return whole.select(*kept(whole), *tools_of(whole)).with_columns(said)


def tools_of(rows: Frame) -> list[str]:
    return ["tools"] if "tools" in rows.columns else []


TURN = pl.Struct({"from": pl.String, "value": pl.String})


def turns(messages: Any) -> list[dict[str, str]]:
    return [turn(one) for one in messages]


def turn(said: Mapping[str, Any]) -> dict[str, str]:
    """One message; a call of tools is its JSON."""
    if calls := said.get("tool_calls"):
        functions = [{"name": c["function"]["name"], "arguments": read(c["function"]["arguments"])} for c in calls]
        whole = functions[0] if len(functions) == 1 else functions
        return {"from": "function_call", "value": json.dumps(whole, ensure_ascii=False)}
    return {"from": NAMES[said["role"]], "value": said["content"]}


def read(arguments: Any) -> Any:
    """A call's arguments, which OpenAI's form has as a JSON text."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def alpaca(rows: Frame, kind: Kind) -> Frame:
    """`instruction`, `input` (empty), `output`, `system`, and `history` of earlier (said, answered); a preference has
    `chosen` and `rejected` in the place of `output`.
    """
    whole = sft(rows, kind)
    texts = dict.fromkeys(("instruction", "input", "output", "system"), pl.String())
    schema = {**texts, "history": pl.List(pl.List(pl.String))}
    told = pl.DataFrame([alpaca_row(chat) for chat in chats(whole)], schema=schema)
    made = whole.select(*kept(whole), *tools_of(whole)).hstack(told)
    if kind == "preferences":
        return made.drop("output").with_columns(
            **{s: rows.select(is_answer(s)).to_series() for s in ("chosen", "rejected")}
        )
    return made


def alpaca_row(messages: list[dict[str, Any]]) -> dict[str, Any]:
    system = "\n\n".join(one["content"] for one in messages if one["role"] == "system")
    said: list[list[str]] = []
    for one in map(turn, (one for one in messages if one["role"] != "system")):
        asks = one["from"] in ("human", "observation")
        if asks and (not said or said[-1][1]):
            said.append([one["value"], ""])
            continue
        if not said:
            said.append(["", ""])
        place = 0 if asks else 1
        said[-1][place] = "\n\n".join(filter(None, (said[-1][place], one["value"])))
    last = said.pop() if said else ["", ""]
    return {"instruction": last[0], "input": "", "output": last[1], "system": system, "history": said}


def openai(rows: Frame, kind: Kind) -> Frame:
    """For OpenAI's fine-tuning, supervised or on preferences: files openai/NAME-SPLIT.jsonl, not a configuration."""
    if kind == "preferences":
        return rows.select(
            "id",
            input=pl.struct(messages="prompt"),
            preferred_output="chosen",
            non_preferred_output="rejected",
        )
    whole = sft(rows, kind)
    return whole.select("id", "messages", *tools_of(whole))


def openai_lines(rows: RowStream) -> Iterator[bytes]:
    """Rows as OpenAI's files have them: tools and messages as objects."""

    def line(row: dict[str, Any]) -> dict[str, Any]:
        tools = {"tools": json.loads(row.pop("tools"))} if row.get("tools") else {}
        row.pop("tools", None)
        if "messages" in row:
            row["messages"] = [as_message(message) for message in row["messages"]]
        row.pop("id")
        return {**row, **tools}

    for batch in rows.batches():
        yield b"".join(orjson.dumps(line(row), option=orjson.OPT_APPEND_NEWLINE) for row in batch.iter_rows(named=True))


def message(role: str, column: str) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), pl.col(column).alias("content"))


def plain_prompt(rows: Frame) -> pl.Series:
    """Chats as texts: one message as it is, a system message before it; longer ones with the speakers' names."""

    def plain(messages: list[dict[str, str]]) -> str:
        system = [one["content"] for one in messages if one["role"] == "system"]
        said = [one for one in messages if one["role"] != "system"]
        if len(said) == 1:
            return "\n\n".join([*system, said[0]["content"]])
        return "\n\n".join([*system, *(f"{one['role'].capitalize()}: {one['content']}" for one in said), "Assistant:"])

    return pl.Series("prompt", [plain(messages) for messages in rows["prompt"].to_list()], pl.String)


class Shape(NamedTuple):
    """How a format is made of a batch, of what kinds of rows, what a row is then; one_each: one row of each."""

    make: Callable[[Frame, Kind], Frame]
    kinds: tuple[Kind, ...]
    about: str
    one_each: bool = True


ANSWERS: tuple[Kind, ...] = ("conversations", "completions", "preferences")
SHAPES: dict[Format, Shape] = {
    "sft": Shape(sft, ANSWERS, "a conversation to imitate", False),
    "dpo": Shape(dpo, ("preferences",), "a preferred answer over a rejected one, as messages"),
    "dpo-plain": Shape(dpo_plain, ("preferences",), "a preferred answer over a rejected one, as texts"),
    "kto": Shape(kto, ("preferences",), "an answer and whether it is wanted", False),
    "reward": Shape(reward, ("preferences",), "a preferred conversation over a rejected one"),
    "prompts": Shape(prompts, ("prompts", "completions", "preferences"), "a prompt"),
    "triplets": Shape(triplets, ("triplets",), "a query, its passage, and one that is not"),
    "sharegpt": Shape(sharegpt, ANSWERS, "a conversation of {from, value}", False),
    "alpaca": Shape(alpaca, ANSWERS, "an instruction and its output", False),
    "openai": Shape(openai, ANSWERS, "a line for OpenAI's fine-tuning", False),
}
KINDS: dict[Format, Kind] = {
    "sft": "conversations",
    "dpo": "preferences",
    "prompts": "other",
    "triplets": "triplets",
}


def formatted(tables: Mapping[str, Table], formats: Sequence[Format]) -> tuple[dict[str, Table], dict[str, Content]]:
    """The tables in each of these formats that they can take, and files beside them; `as-made` leaves them as they are.

    Named NAME_FORMAT (a dash is an underscore), or NAME where it is as made. Raises InputError where no format suits.
    """
    shaped: dict[str, Table] = {}
    files: dict[str, Content] = {}
    for wanted in formats:
        for name, table in tables.items():
            if wanted == "as-made":
                shaped[name] = table
                continue
            shape = SHAPES[wanted]
            if table.kind not in shape.kinds:
                continue
            label = f"{name}_{wanted.replace('-', '_')}"
            splits = {split: in_format(wanted, rows, table.kind) for split, rows in table.splits.items() if rows.height}
            if wanted in WITHOUT_IDS:
                files |= {f"ids/{label}-{split}.txt": partial(id_lines, rows) for split, rows in splits.items()}
            if wanted == "openai":
                files |= {f"openai/{name}-{split}.jsonl": partial(openai_lines, rows) for split, rows in splits.items()}
                continue
            if wanted in WITHOUT_IDS:
                splits = {split: rows.map(lambda batch: batch.drop("id")) for split, rows in splits.items()}
            shaped[label] = Table(splits, KINDS.get(wanted, "other"), f"{shape.about}; from `{name}`")
    if not shaped and not files:
        kinds = ", ".join(f"{name} ({table.kind})" for name, table in tables.items())
        raise InputError(f"nothing here can be written as {', '.join(formats)}; there is {kinds}")
    return shaped or dict(tables), files


def in_format(wanted: Format, rows: RowStream, kind: Kind) -> RowStream:
    """A split in one format."""
    shape = SHAPES[wanted]
    shaped = rows.map(lambda batch: shape.make(batch, kind), same_height=shape.one_each)
    return shaped.unique("prompt") if wanted == "prompts" else shaped


def id_lines(rows: RowStream) -> Iterator[bytes]:
    """An id a line, in the order of the rows."""
    for batch in rows.batches(["id"]):
        yield "".join(f"{row_id}\n" for row_id in batch["id"]).encode()
