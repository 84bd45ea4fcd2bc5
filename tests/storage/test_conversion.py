"""Chats written in one form and read in another: what both can hold comes back equal, and what is lost is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synthmill.schemas.formats import Use
from synthmill.storage.conversion.chat_files import Look, Placed
from synthmill.storage.conversion.frames import KINDS, frame_of
from synthmill.storage.conversion.to_format import Writer
from synthmill.storage.plain_files.chat_rows import ChatKind, ChatRow, as_kinds, differences
from synthmill.storage.plain_files.forms import forms
from synthmill.storage.published.json_lines import json_line
from synthmill.storage.published.known_trainers import trainer
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.thinking import with_thinking
from synthmill.storage.published.uses import rows_for

Fields = dict[str, Any]
Features = frozenset[str]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXT, lambda inner: st.lists(inner, max_size=2))
TOOL = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}
PLAIN: Features = frozenset({"system", "turns", "thinking"})
CALLS: Features = frozenset({"tools", "calls", "several calls", "text beside"})
EVERYTHING: Features = PLAIN | CALLS | {"ids"}


def said(role: str, content: str) -> Fields:
    return {"role": role, "content": content}


class Way(NamedTuple):
    """A form with what writes it. kind: of rows; holds: what these may have; write: rows -> rows of the form."""

    kind: ChatKind
    holds: Features
    write: Callable[[list[ChatRow]], list[Fields]]
    form: str


def look_at(rows: list[ChatRow]) -> Look:
    fields = {name: None for row in rows for chat in row.chats for message in chat for name in message}
    return Look(len(rows), fields=fields, has_tools=any(row.tools for row in rows))


def in_format(name: Any, kind: ChatKind) -> Callable[[list[ChatRow]], list[Fields]]:
    def write(rows: list[ChatRow]) -> list[Fields]:
        frame = Writer(name, kind, look_at(rows), "").shaped([Placed("", row) for row in rows])
        return [json_line(row, "sparse", ("tools",)) for row in frame.drop("id").iter_rows(named=True)]

    return write


def for_trainer(name: str, use: Use, kind: ChatKind) -> Callable[[list[ChatRow]], list[Fields]]:
    def write(rows: list[ChatRow]) -> list[Fields]:
        frame = frame_of(rows, list(map(str, range(len(rows)))), kind, look_at(rows))
        known = trainer(name)
        form = known.forms[use]
        stream = with_thinking(rows_for(use, KINDS[kind], RowStream.of(frame)), form.thinking or known.thinking)
        made = map(form.make, stream.batches())
        return [row for batch in made for row in batch.drop("id", strict=False).iter_rows(named=True)]

    return write


def trajectories(rows: list[ChatRow]) -> list[Fields]:
    """ATIF, which nothing here writes: a step of the agent holds the results of its calls."""
    written = []
    for row in rows:
        steps: list[Fields] = []
        for message in row.messages:
            if message["role"] == "tool":
                result = {"source_call_id": message["tool_call_id"], "content": message["content"]}
                steps[-1].setdefault("observation", {"results": []})["results"].append(result)
                continue
            source = "agent" if message["role"] == "assistant" else message["role"]
            step = {"step_id": len(steps) + 1, "source": source, "message": message["content"]}
            step |= {name: message[name] for name in ("reasoning_content",) if name in message}
            if calls := message.get("tool_calls"):
                step["tool_calls"] = [
                    {
                        "tool_call_id": call["id"],
                        "function_name": call["function"]["name"],
                        "arguments": json.loads(call["function"]["arguments"]),
                    }
                    for call in calls
                ]
            steps.append(step)
        agent = {"name": "a", "version": "1"} | ({"tool_definitions": row.tools} if row.tools else {})
        written.append({"schema_version": "ATIF-v1.6", "session_id": "s", "agent": agent, "steps": steps})
    return written


WAYS: dict[str, Way] = {
    "sft": Way("conversation", EVERYTHING, in_format("sft", "conversation"), "openai"),
    "openai": Way("conversation", EVERYTHING, in_format("openai", "conversation"), "openai"),
    "sharegpt": Way("conversation", PLAIN | CALLS, in_format("sharegpt", "conversation"), "sharegpt"),
    "alpaca": Way("conversation", PLAIN | {"tools"}, in_format("alpaca", "conversation"), "alpaca"),
    "atif": Way("conversation", EVERYTHING, trajectories, "atif"),
    "axolotl": Way("conversation", EVERYTHING, for_trainer("axolotl", "sft", "conversation"), "openai"),
    "mlx-lm": Way("conversation", EVERYTHING, for_trainer("mlx-lm", "sft", "conversation"), "openai"),
    "dpo": Way("preference", EVERYTHING, in_format("dpo", "preference"), "trl"),
    "dpo-plain": Way("preference", frozenset(), in_format("dpo-plain", "preference"), "trl"),
    "reward": Way("preference", EVERYTHING, in_format("reward", "preference"), "trl"),
    "openai pairs": Way("preference", EVERYTHING - {"tools"}, in_format("openai", "preference"), "openai"),
    "sharegpt pairs": Way("preference", PLAIN | CALLS, in_format("sharegpt", "preference"), "sharegpt"),
    "alpaca pairs": Way("preference", PLAIN | {"tools"}, in_format("alpaca", "preference"), "alpaca"),
    "nemo": Way("preference", PLAIN, for_trainer("nemo-rl", "pairs", "preference"), "nemo"),
    "ms-swift": Way("preference", PLAIN | {"tools"}, for_trainer("ms-swift", "pairs", "preference"), "ms-swift"),
    "kto": Way("label", EVERYTHING, in_format("kto", "label"), "trl"),
    "llama-factory kto": Way("label", PLAIN | {"tools"}, for_trainer("llama-factory", "kto", "label"), "sharegpt"),
    "ms-swift kto": Way("label", PLAIN | {"tools"}, for_trainer("ms-swift", "kto", "label"), "ms-swift"),
    "prompts": Way("prompt", EVERYTHING, in_format("prompts", "prompt"), "prompts"),
}


@st.composite
def exchanges(draw: st.DrawFn, features: Features, *, last: bool) -> list[Fields]:
    """A user's turn and what follows it. last: up to an answer that calls nothing."""
    messages = [said("user", draw(TEXT))]
    if "calls" in features and draw(st.booleans()):
        number = draw(st.integers(1, 2 if "several calls" in features else 1))
        functions = [
            {"name": "look", "arguments": json.dumps(draw(st.dictionaries(TEXT, JSON)))} for _ in range(number)
        ]
        calls = [{"id": "", "type": "function", "function": function} for function in functions]
        beside = draw(TEXT | st.just("")) if "text beside" in features else ""
        messages.append(said("assistant", beside) | {"tool_calls": calls})
        messages += [said("tool", draw(TEXT)) for _ in calls]
    answer = said("assistant", draw(TEXT))
    if "thinking" in features and draw(st.booleans()):
        answer["reasoning_content"] = draw(TEXT)
    return [*messages, answer] if last else messages


@st.composite
def chat_rows(draw: st.DrawFn, kind: ChatKind, features: Features) -> ChatRow:
    """A row of a kind that has some of these features."""
    count = draw(st.integers(1, 3)) if "turns" in features else 1
    parts = [draw(exchanges(features, last=True)) for _ in range(count)]
    messages = [message for part in parts for message in part]
    if "system" in features and draw(st.booleans()):
        messages = [said("system", draw(TEXT)), *messages]
    number = 0
    for message in messages:  # ids, which some forms hold and others count
        for call in message.get("tool_calls", ()):
            number += 1
            call["id"] = f"{'id' if 'ids' in features else 'call'}_{number}"
        if message["role"] == "tool":
            open_calls = [c["id"] for m in messages for c in m.get("tool_calls", ())]
            taken = {m.get("tool_call_id") for m in messages}
            message["tool_call_id"] = next(name for name in open_calls if name not in taken)
    tools = [TOOL] if "tools" in features and draw(st.booleans()) else []
    row = ChatRow("conversation", messages, tools=tools)
    if kind == "preference":
        [best] = as_kinds(row, ("completion",))[0]
        rejected = said("assistant", draw(TEXT))
        assume(rejected["content"] != best.answers[0][0]["content"])
        return replace(best, kind="preference", answers=[best.answers[0], [rejected]])
    if kind == "label":
        [best] = as_kinds(row, ("completion",))[0]
        return replace(best, kind="label", label=draw(st.booleans()))
    [row] = as_kinds(row, (kind,))[0]
    return row


@st.composite
def round_trips(draw: st.DrawFn) -> tuple[str, str, list[ChatRow]]:
    """Two forms of one kind of rows, and rows that both can hold."""
    first, second = draw(st.sampled_from([(a, b) for a in WAYS for b in WAYS if WAYS[a].kind == WAYS[b].kind]))
    features = WAYS[first].holds & WAYS[second].holds
    return first, second, draw(st.lists(chat_rows(WAYS[first].kind, features), min_size=1, max_size=3))


def through(name: str, rows: list[ChatRow]) -> list[ChatRow]:
    way = WAYS[name]
    fields = orjson.loads(orjson.dumps(way.write(rows)))
    return [forms()[way.form].row(row) for row in fields]


@given(round_trips())
@settings(max_examples=150)
def test_what_two_forms_can_hold_comes_back_equal(trip: tuple[str, str, list[ChatRow]]) -> None:
    first, second, rows = trip
    there = through(first, rows)
    back = through(first, through(second, there))
    for row, seen, again in zip(rows, there, back, strict=True):
        assert not differences(row, seen) and not differences(row, again)
        assert (row.kind, row.chats) == (again.kind, again.chats) or "calls" in str(row.chats)
