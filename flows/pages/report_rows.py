"""Rows of a dataset as a page shows them: pairs with their differences, dialogues as bubbles, queries with ranks."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
from rapidfuzz.distance import Indel

from synthmill.flows.terminal.tables import format_value
from synthmill.storage.published.chats import as_message
from synthmill.storage.published.configurations import Dataset, Kind, Table

LONGEST = 6_000  # characters of a text; what is longer is cut, and says so
COMPARED = 1_500  # words of two texts that are compared word by word
TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
READABLE: tuple[Kind, ...] = ("preferences", "conversations", "completions", "labelled", "triplets", "prompts", "rl")
"""What is shown; tables of other kinds where a dataset has none of these."""
INTERNAL = ("id", "parent_id")
FACTS = (
    "chosen_reward",
    "rejected_reward",
    "margin",
    "rank",
    "weight",
    "agreement",
    "finish_reason",
    "methods",
    "flags",
)


class Sample(NamedTuple):
    """Some rows of one configuration, evenly spaced. of: how many there are."""

    name: str
    kind: str
    of: int
    rows: list[dict[str, Any]]


def samples(dataset: Dataset, most: int) -> list[Sample]:
    """At most `most` rows in all, in equal shares of the configurations that people can read."""
    tables = readable(dataset)
    queries = dataset.tables.get("queries")
    tables.pop("queries", None)
    share = max(1, most // max(1, len(tables) + bool(queries)))
    samples: list[Sample] = []
    if not most:
        return samples
    if queries and queries.height:
        turns = queries.rows.frame(["id"])["id"].unique(maintain_order=True).to_list()
        chosen = pick_evenly(turns, share)
        rows = queries.rows.filter(pl.col("id").is_in(chosen)).frame()
        page_rows = [row_of_turn(rows.filter(pl.col("id") == turn)) for turn in chosen]
        samples.append(Sample("queries", "queries", len(turns), page_rows))
    for name, table in tables.items():
        chosen_rows = table.rows.take(pick_evenly(range(table.height), share)).to_dicts()
        page_rows = [row_of(table.kind, row) for row in chosen_rows]
        samples.append(Sample(name, table.kind, table.height, page_rows))
    return samples


def readable(dataset: Dataset) -> dict[str, Table]:
    """The configurations with rows that people can read."""
    tables = {name: table for name, table in dataset.tables.items() if table.height}
    return {name: table for name, table in tables.items() if table.kind in READABLE} or tables


def pick_evenly(rows: Sequence[Any], most: int) -> list[Any]:
    """`most` of them, evenly spaced."""
    count = min(most, len(rows))
    return [rows[len(rows) * n // count] for n in range(count)]


def row_of(kind: Kind, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a row: its id, some facts, and texts by the kind of row."""
    facts = [(name, format_fact(row[name])) for name in FACTS if row.get(name) not in (None, "", [])]
    common: dict[str, Any] = {"id": row.get("id", ""), "facts": facts}
    if kind == "preferences":
        chosen, rejected = (cut(row[side][-1]["content"]) for side in ("chosen", "rejected"))
        better, worse = differences(chosen, rejected)
        return {**common, "turns": bubbles(row["prompt"]), "chosen": better, "rejected": worse}
    if kind == "triplets":
        return {**common, "texts": [(name, cut(row[name])) for name in ("anchor", "positive", "negative")]}
    if kind in ("prompts", "rl", "distillation", "other"):
        known = {*INTERNAL, *(name for name, _ in facts)}
        names = dict.fromkeys([*(["prompt"] if "prompt" in row else []), *row])
        values = [(name, row[name]) for name in names if name not in known and row[name] is not None]
        return {**common, "texts": [(name, cut(format_value(value))) for name, value in values]}
    return {
        **common,
        "turns": bubbles(row["messages"] if kind == "conversations" else row["prompt"] + row["completion"]),
    }


def bubbles(messages: Sequence[Any]) -> list[dict[str, str]]:
    """Messages: who speaks, and what."""
    turns = []
    for message in map(as_message, messages):
        functions = (call["function"] for call in message.get("tool_calls") or ())
        calls = [f"{function['name']}({function['arguments']})" for function in functions]
        text = cut("\n".join([*filter(None, [message["content"]]), *calls]))
        turns.append({"role": message["role"], "text": text})
    return turns


def row_of_turn(turn: pl.DataFrame) -> dict[str, Any]:
    """A turn with every query and where each retriever finds the passage with it, the best first."""
    names = turn["retriever"].unique(maintain_order=True).to_list()
    queries = (
        turn.group_by("query", maintain_order=True)
        .agg("rank", pl.col("methods").first())
        .with_columns(best=pl.col("rank").list.min())
        .sort("best", maintain_order=True)
    )
    first = turn.row(0, named=True)
    turns = bubbles(first.get("history") or [])
    if question := first.get("question"):
        turns.append({"role": "user", "text": cut(question)})
    rows = [
        {"query": cut(row["query"]), "ranks": row["rank"], "methods": format_fact(row["methods"])}
        for row in queries.to_dicts()
    ]
    return {"id": first["id"], "facts": [], "turns": turns, "retrievers": names, "queries": rows}


def differences(left: str, right: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces, each with whether the other text lacks it; long texts in one piece."""
    words = TOKEN.findall(left), TOKEN.findall(right)
    if max(map(len, words)) > COMPARED:
        return [(left, False)], [(right, False)]
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for step in Indel.opcodes(*words):
        for pieces, tokens, start, end in zip(
            sides, words, (step.src_start, step.dest_start), (step.src_end, step.dest_end), strict=True
        ):
            if start < end:
                pieces.append(("".join(tokens[start:end]), step.tag != "equal"))
    return sides


def format_fact(value: Any) -> str:
    """A fact, in few letters."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
