"""The formats that trainers read, made from a dataset's rows batch by batch: frame in, frame out, and no
row is lost unless the format leaves it out.

Every row keeps its `id`; where one row becomes two, theirs end in -chosen and -rejected. Source: docs/publishing.md.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import orjson
import polars as pl

from synthmill.schemas.errors import InputError
from synthmill.schemas.formats import Format, ThinkingPlace
from synthmill.storage.published.folder import Content, Kind, Table, as_message
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import NO_THOUGHTS, REASONING
from synthmill.storage.published.thinking import fields_of, place_in, with_thinking

WITHOUT_IDS: tuple[Format, ...] = ("triplets", "openai")
"""Formats in which a column of ids would mean something else: ids lie in a file beside them, ids/NAME-SPLIT.txt."""
NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
PROVENANCE = ("id", "parent_id", "source")
Frame = pl.DataFrame


def provenance_of(rows: Frame) -> list[str]:
    """The columns that say where a row comes from."""
    return [name for name in PROVENANCE if name in rows.columns]


def last_content(column: str) -> pl.Expr:
    return pl.col(column).list.last().struct.field("content")


def sft(rows: Frame, kind: Kind) -> Frame:
    """`messages`, for TRL's SFTTrainer, up to the last answer; a preference gives its chosen one."""
    if kind == "conversations":
        cut_chats = pl.Series(
            "messages", [until_answer(chat) for chat in rows["messages"].to_list()], rows.schema["messages"]
        )
        return rows.with_columns(cut_chats).filter(pl.col("messages").list.len() > 0)
    answer = "completion" if kind == "completions" else "chosen"
    return rows.select(*provenance_of(rows), messages=whole_chat(rows, answer))


def whole_chat(rows: Frame, answer: str) -> pl.Expr:
    """Prompt and answer as one chat; where the answer has a field for thinking, so have the prompt's messages."""
    fields = fields_of(rows.schema["prompt"])
    if REASONING in fields or REASONING not in fields_of(rows.schema[answer]):
        return pl.concat_list("prompt", answer)
    own = (pl.element().struct.field(name) for name in fields)
    return pl.concat_list(pl.col("prompt").list.eval(pl.struct(*own, NO_THOUGHTS.alias(REASONING))), answer)


def until_answer(chat: list[Any]) -> list[Any]:
    """A chat up to its last answer: there is nothing to learn after it."""
    answers = [place for place, message in enumerate(chat) if as_message(message)["role"] == "assistant"]
    return chat[: answers[-1] + 1] if answers else []


def chats_of(rows: Frame) -> list[list[dict[str, Any]]]:
    return [[as_message(message) for message in chat] for chat in rows["messages"].to_list()]


def dpo(rows: Frame, _: Kind) -> Frame:
    """`prompt`, `chosen`, `rejected` as lists of messages, for DPO, ORPO and SimPO."""
    return rows


def dpo_plain(rows: Frame, _: Kind) -> Frame:
    """The same as texts, for trainers that apply no chat template."""
    return rows.select(
        *provenance_of(rows),
        prompt=plain_prompt(rows),
        chosen=last_content("chosen"),
        rejected=last_content("rejected"),
    )


def kto(rows: Frame, _: Kind) -> Frame:
    """`prompt`, `completion`, `label`: each pair is a good and a bad answer."""
    sides = [
        rows.select(
            pl.format("{}-{}", "id", pl.lit(side)).alias("id"),
            *provenance_of(rows)[1:],
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
    return rows.select(*provenance_of(rows), chosen=whole_chat(rows, "chosen"), rejected=whole_chat(rows, "rejected"))


def prompts(rows: Frame, kind: Kind) -> Frame:
    """`prompt` as messages, each once, for online methods (GRPO, RLOO, online DPO)."""
    if kind == "prompts":
        user = pl.concat_list(message_expr("user", "prompt"))
        system = pl.col("system") if "system" in rows.columns else pl.lit(None, pl.String)
        with_system = pl.concat_list(pl.struct(role=pl.lit("system"), content=system), message_expr("user", "prompt"))
        rows = rows.select(*provenance_of(rows), prompt=pl.when(system.is_null()).then(user).otherwise(with_system))
    return rows.select(*provenance_of(rows), "prompt")


def triplets(rows: Frame, _: Kind) -> Frame:
    """`anchor`, `positive`, `negative`, for sentence-transformers; other columns would count as more negatives."""
    return rows.select("anchor", "positive", "negative", id="id")


def sharegpt(rows: Frame, kind: Kind) -> Frame:
    """`conversations` of {from, value}, and a preference's `chosen` and `rejected`, as LLaMA-Factory reads."""
    if kind == "preferences":
        column = pl.Series(
            "conversations", [sharegpt_turns(prompt) for prompt in rows["prompt"].to_list()], pl.List(TURN)
        )
        sides = [
            pl.Series(side, [sharegpt_turn(messages[-1]) for messages in rows[side].to_list()], TURN)
            for side in ("chosen", "rejected")
        ]
        return rows.select(provenance_of(rows)).with_columns(column, *sides)
    conversations = sft(rows, kind)
    column = pl.Series("conversations", [sharegpt_turns(chat) for chat in chats_of(conversations)], pl.List(TURN))
    return conversations.select(*provenance_of(conversations), *tools_of(conversations)).with_columns(column)


def tools_of(rows: Frame) -> list[str]:
    return ["tools"] if "tools" in rows.columns else []


TURN = pl.Struct({"from": pl.String, "value": pl.String})


def sharegpt_turns(messages: Any) -> list[dict[str, str]]:
    return [sharegpt_turn(message) for message in messages]


def sharegpt_turn(message: Mapping[str, Any]) -> dict[str, str]:
    """One message; tool calls become their JSON."""
    if calls := message.get("tool_calls"):
        functions = [
            {"name": call["function"]["name"], "arguments": parse_arguments(call["function"]["arguments"])}
            for call in calls
        ]
        content = functions[0] if len(functions) == 1 else functions
        return {"from": "function_call", "value": json.dumps(content, ensure_ascii=False)}
    return {"from": NAMES[message["role"]], "value": message["content"]}


def parse_arguments(arguments: Any) -> Any:
    """A tool call's arguments, which OpenAI's form holds as a JSON text."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def alpaca(rows: Frame, kind: Kind) -> Frame:
    """`instruction`, `input` (empty), `output`, `system`, and `history` of earlier (prompt, answer); a preference has
    `chosen` and `rejected` in the place of `output`.
    """
    conversations = sft(rows, kind)
    texts = dict.fromkeys(("instruction", "input", "output", "system"), pl.String())
    schema = {**texts, "history": pl.List(pl.List(pl.String))}
    columns = pl.DataFrame([alpaca_row(chat) for chat in chats_of(conversations)], schema=schema)
    instructions = conversations.select(*provenance_of(conversations), *tools_of(conversations)).hstack(columns)
    if kind == "preferences":
        return instructions.drop("output").with_columns(
            **{side: rows.select(last_content(side)).to_series() for side in ("chosen", "rejected")}
        )
    return instructions


def alpaca_row(messages: list[dict[str, Any]]) -> dict[str, Any]:
    system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
    exchanges: list[list[str]] = []
    for turn in map(sharegpt_turn, (turn for turn in messages if turn["role"] != "system")):
        is_prompt = turn["from"] in ("human", "observation")
        if is_prompt and (not exchanges or exchanges[-1][1]):
            exchanges.append([turn["value"], ""])
            continue
        if not exchanges:
            exchanges.append(["", ""])
        place = 0 if is_prompt else 1
        exchanges[-1][place] = "\n\n".join(filter(None, (exchanges[-1][place], turn["value"])))
    final = exchanges.pop() if exchanges else ["", ""]
    return {"instruction": final[0], "input": "", "output": final[1], "system": system, "history": exchanges}


def openai(rows: Frame, kind: Kind) -> Frame:
    """For OpenAI's fine-tuning, supervised or on preferences: files openai/NAME-SPLIT.jsonl, not a configuration."""
    if kind == "preferences":
        return rows.select(
            "id",
            input=pl.struct(messages="prompt"),
            preferred_output="chosen",
            non_preferred_output="rejected",
        )
    conversations = sft(rows, kind)
    return conversations.select("id", "messages", *tools_of(conversations))


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


def message_expr(role: str, column: str) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), pl.col(column).alias("content"))


def plain_prompt(rows: Frame) -> pl.Series:
    """Chats as texts: a single message as it is, after its system message; longer chats with the roles' names."""

    def as_text(messages: list[dict[str, str]]) -> str:
        system = [message["content"] for message in messages if message["role"] == "system"]
        turns = [message for message in messages if message["role"] != "system"]
        if len(turns) == 1:
            return "\n\n".join([*system, turns[0]["content"]])
        return "\n\n".join(
            [*system, *(f"{message['role'].capitalize()}: {message['content']}" for message in turns), "Assistant:"]
        )

    return pl.Series("prompt", [as_text(messages) for messages in rows["prompt"].to_list()], pl.String)


class Shape(NamedTuple):
    """How a format is made from a batch, from which kinds of rows, and what its rows are; one_each: one row of each."""

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


def unsuited_formats(tables: Mapping[str, Table], formats: Sequence[Format]) -> list[Format]:
    """The formats that no table can be written in."""
    kinds = {table.kind for table in tables.values()}
    return [name for name in formats if name != "as-made" and not kinds & set(SHAPES[name].kinds)]


def format_tables(
    tables: Mapping[str, Table], formats: Sequence[Format], thinking: ThinkingPlace = ""
) -> tuple[dict[str, Table], dict[str, Content]]:
    """Convert each table to each format that suits its kind; returns tables, and files beside them. thinking: where to
    have it; empty: where each format's trainers look.

    Tables are named NAME_FORMAT (a dash is an underscore); `as-made` keeps a table and its NAME. Raises InputError
    where no format suits, and where thinking is wanted in a field that a format does not have.
    """
    if without := [name for name in formats if thinking == "field" and place_in(name, "") != "field"]:
        raise InputError(
            f"{', '.join(without)} has no field for thinking; expected text or drop there, or leave --thinking out: "
            "each format has it where its trainers look"
        )
    shaped: dict[str, Table] = {}
    files: dict[str, Content] = {}
    for format_name in formats:
        for name, table in tables.items():
            if format_name == "as-made":
                placed = {
                    split: with_thinking(rows, place_in(format_name, thinking)) for split, rows in table.splits.items()
                }
                shaped[name] = replace(table, splits=placed)
                continue
            shape = SHAPES[format_name]
            if table.kind not in shape.kinds:
                continue
            place = place_in(format_name, thinking)
            label = f"{name}_{format_name.replace('-', '_')}"
            splits = {
                split: rows_in_format(format_name, with_thinking(rows, place), table.kind)
                for split, rows in table.splits.items()
                if rows.height
            }
            if format_name in WITHOUT_IDS:
                files |= {f"ids/{label}-{split}.txt": partial(id_lines, rows) for split, rows in splits.items()}
            if format_name == "openai":
                files |= {f"openai/{name}-{split}.jsonl": partial(openai_lines, rows) for split, rows in splits.items()}
                continue
            if format_name in WITHOUT_IDS:
                splits = {split: rows.map(lambda batch: batch.drop("id")) for split, rows in splits.items()}
            shaped[label] = Table(splits, KINDS.get(format_name, "other"), f"{shape.about}; from `{name}`")
    if not shaped and not files:
        kinds = ", ".join(f"{name} ({table.kind})" for name, table in tables.items())
        raise InputError(f"nothing here can be written as {', '.join(formats)}; there is {kinds}")
    return shaped or dict(tables), files


def rows_in_format(format_name: Format, rows: RowStream, kind: Kind) -> RowStream:
    """A split in one format."""
    shape = SHAPES[format_name]
    shaped = rows.map(lambda batch: shape.make(batch, kind), same_height=shape.one_each)
    return shaped.unique("prompt") if format_name == "prompts" else shaped


def id_lines(rows: RowStream) -> Iterator[bytes]:
    """An id a line, in the order of the rows."""
    for batch in rows.batches(["id"]):
        yield "".join(f"{row_id}\n" for row_id in batch["id"]).encode()
