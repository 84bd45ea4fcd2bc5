"""Rows as lists of messages, as TRL and most chat templates read them."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import polars as pl

from synthmill.storage.published.chats import FIELDS
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.thinking import fields_of

PROVENANCE = ("id", "parent_id", "source")
Frame = pl.DataFrame


def provenance_of(rows: Frame) -> list[str]:
    """The columns that say where a row comes from."""
    return [name for name in PROVENANCE if name in rows.columns]


def tools_of(rows: Frame) -> list[str]:
    return ["tools"] if "tools" in rows.columns else []


def sft(rows: Frame, kind: Kind) -> Frame:
    """`messages`, for TRL's SFTTrainer, up to the last answer; a preference gives its chosen one."""
    if kind == "conversations":
        return rows.with_columns(up_to_answer()).filter(pl.col("messages").list.len() > 0)
    answer = "completion" if kind == "completions" else "chosen"
    return rows.select(*provenance_of(rows), *tools_of(rows), messages=whole_chat(rows, answer))


def up_to_answer() -> pl.Expr:
    """`messages` up to the last answer, for there is nothing to learn after it; empty where there is no answer."""
    chat = pl.col("messages")
    answers = chat.list.eval(pl.element().struct.field("role") == "assistant")
    length = chat.list.len() - answers.list.reverse().list.arg_max()
    return chat.list.head(pl.when(answers.list.any()).then(length).otherwise(0)).alias("messages")


def whole_chat(rows: Frame, answer: str) -> pl.Expr:
    """Prompt and answer as one chat, whose messages have the fields of both."""
    return pl.concat_list(alike(rows, ("prompt", answer)).values())


def alike(rows: Frame, names: Sequence[str]) -> dict[str, pl.Expr]:
    """Columns of chats whose messages all have the fields of all of them."""
    own = {name: fields_of(rows.schema[name]) for name in names}
    fields = list(dict.fromkeys(chain.from_iterable(own.values())))
    return {
        name: pl.col(name).list.eval(pl.struct(field_or_null(field, own[name]) for field in fields))
        if own[name] != fields
        else pl.col(name)
        for name in names
    }


def field_or_null(field: str, own: list[str]) -> pl.Expr:
    """A message's field, or null in the type that messages have for it."""
    if field in own:
        return pl.element().struct.field(field)
    return pl.lit(None, FIELDS.get(field, pl.String())).alias(field)


def dpo(rows: Frame, _: Kind) -> Frame:
    """`prompt`, `chosen`, `rejected` as lists of messages, for DPO, ORPO and SimPO."""
    return rows


def kto(rows: Frame, kind: Kind) -> Frame:
    """`prompt`, `completion`, `label`: each pair is a good and a bad answer."""
    if kind == "labelled":
        return rows.select(*provenance_of(rows), *tools_of(rows), "prompt", "completion", "label")
    answers = alike(rows, ("chosen", "rejected"))
    sides = [
        rows.select(
            pl.format("{}-{}", "id", pl.lit(side)).alias("id"),
            *provenance_of(rows)[1:],
            *tools_of(rows),
            prompt="prompt",
            completion=answer,
            label=pl.lit(side == "chosen"),
        )
        for side, answer in answers.items()
    ]
    place = pl.int_range(pl.len())
    return (
        pl.concat([side.with_columns(place=place) for side in sides]).sort("place", maintain_order=True).drop("place")
    )


def reward(rows: Frame, _: Kind) -> Frame:
    """`chosen` and `rejected` as whole conversations, for RewardTrainer."""
    sides = {side: whole_chat(rows, side) for side in ("chosen", "rejected")}
    return rows.select(*provenance_of(rows), *tools_of(rows), **sides)


def prompts(rows: Frame, kind: Kind) -> Frame:
    """`prompt` as messages, each once, for online methods (GRPO, RLOO, online DPO)."""
    return as_prompts(rows).select(*provenance_of(rows), *tools_of(rows), "prompt")


def as_prompts(rows: Frame) -> Frame:
    """Rows whose `prompt`, where it is a text, is a list of messages, after the row's system message."""
    if rows.schema["prompt"] != pl.String:
        return rows
    user = pl.concat_list(message_expr("user", "prompt"))
    system = pl.col("system") if "system" in rows.columns else pl.lit(None, pl.String)
    with_system = pl.concat_list(pl.struct(role=pl.lit("system"), content=system), message_expr("user", "prompt"))
    chat = pl.when(system.is_null()).then(user).otherwise(with_system)
    return rows.with_columns(prompt=chat).drop("system", strict=False)


def message_expr(role: str, column: str) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), pl.col(column).alias("content"))


def last_content(column: str) -> pl.Expr:
    return pl.col(column).list.last().struct.field("content")


def triplets(rows: Frame, _: Any) -> Frame:
    """`anchor`, `positive`, `negative`, for sentence-transformers; other columns would count as more negatives."""
    return rows.select("anchor", "positive", "negative", id="id")
