"""Chats written in one form and read in another: what both can hold comes back equal, and what is lost is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synthmill.schemas.errors import InputError
from synthmill.schemas.formats import Use
from synthmill.storage.conversion.chat_files import ChatFile, Look, Placed
from synthmill.storage.conversion.frames import KINDS, frame_of
from synthmill.storage.conversion.tally import Report, Tally
from synthmill.storage.conversion.to_format import Writer, as_line, convert_to_format
from synthmill.storage.conversion.to_trainer import ACCEPTED, Job, convert_for_trainer
from synthmill.storage.plain_files.chat_rows import ChatKind, ChatRow, as_kinds, differences
from synthmill.storage.plain_files.forms import forms
from synthmill.storage.published.known_trainers import trainer, trainer_names
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.thinking import with_thinking
from synthmill.storage.published.uses import rows_for
from tests.conftest import write_jsonl

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
        return [as_line(row) for row in frame.drop("id").iter_rows(named=True)]

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
    "openai pairs": Way("preference", EVERYTHING, in_format("openai", "preference"), "openai"),
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
@settings(max_examples=80)
def test_what_two_forms_can_hold_comes_back_equal(trip: tuple[str, str, list[ChatRow]]) -> None:
    first, second, rows = trip
    there = through(first, rows)
    back = through(first, through(second, there))
    for row, seen, again in zip(rows, there, back, strict=True):
        assert not differences(row, seen) and not differences(row, again)
        assert (row.kind, row.chats) == (again.kind, again.chats) or "calls" in str(row.chats)


ASKED, ANSWERED, WRONG = said("user", "Rain?"), said("assistant", "No."), said("assistant", "Yes.")


def convert(source: Path, to: Any, out: Path, form: str = "") -> Report:
    file = ChatFile(str(source), form)
    return convert_to_format(file, to, out, "", file.look(with_types=out.suffix == ".parquet"), lambda *_: None)


def lost_in(report: Report) -> dict[str, tuple[int, str]]:
    return {name: (count.rows, count.first) for name, count in report.lost.counts.items()}


def lines(path: Path) -> list[Fields]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_become_what_the_format_holds(tmp_path: Path) -> None:
    answers = [[said("assistant", text)] for text in ("b", "a", "d", "c")]
    completions = [{"rank": rank, "completion": answer} for rank, answer in zip((2, 1, 4, 3), answers, strict=True)]
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": "x", "context": [ASKED], "completions": completions}])
    out = tmp_path / "out.jsonl"
    report = convert(source, "dpo", out)
    assert lines(out) == [{"id": "x", "prompt": [ASKED], "chosen": answers[1], "rejected": answers[2]}]
    assert list(report.lost.counts) == ["answers ranked between"]
    convert(source, "kto", out)
    assert [(row["id"], row["label"]) for row in lines(out)] == [("x-chosen", True), ("x-rejected", False)]
    report = convert(source, "sft", out)
    assert lines(out)[0]["messages"] == [ASKED, *answers[1]] and list(report.lost.counts) == ["other answers"]
    labels = [{"prompt": "Rain?", "completion": text, "label": text == "No."} for text in ("No.", "Yes.")]
    report = convert(write_jsonl(tmp_path / "kto.jsonl", labels), "sharegpt", out)
    assert report.written == 1 and report.left_out.counts["unwanted_answer"].first == "line-2"
    with pytest.raises(InputError, match="dpo holds preference, and these rows are neither and cannot be: 2 of kind"):
        convert(tmp_path / "kto.jsonl", "dpo", out)


def test_what_a_row_loses_is_named_with_its_place(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    chat = [ASKED, said("assistant", "I look.") | {"tool_calls": [call]}, said("tool", "dry") | {"tool_call_id": "c"}]
    rows: list[Fields] = [
        {"messages": [ASKED, ANSWERED], "score": 1, "prompt_id": None},
        {"messages": [*chat, ANSWERED, said("user", "Thanks.")], "score": 2, "instruction": "taken"},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.jsonl"
    first = (1, "line-2")
    assert lost_in(convert(source, "sharegpt", out, "openai")) == {
        "turns after the last answer": first,
        "ids of calls": first,
        "column instruction": first,
    }
    assert [row["score"] for row in lines(out)] == [1, 2]
    columns = {"column score": (2, "line-1"), "column instruction": first}
    assert lost_in(convert(source, "openai", out, "openai")) == {"turns after the last answer": first} | columns
    assert set(lines(out)[0]) == {"messages"}
    assert {"tool calls", "text beside calls"} <= set(convert(source, "alpaca", out, "openai").lost.counts)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_bad_rows_are_left_out_by_name_and_place(tmp_path: Path, ending: str) -> None:
    rows: list[Fields] = [
        {"instruction": "Rain?", "output": "No.", "marks": [1.5], "note": None},
        {"instruction": "Rain?", "output": ""},
        {"instruction": 7, "output": "No."},
        {"instruction": "Rain?", "output": "No.", "marks": [2], "note": "x"},
    ]
    source, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / f"out.{ending}"
    report = convert(source, "sharegpt", out)
    assert {name: count.first for name, count in report.left_out.counts.items()} == {
        "empty_answer": "line-2",
        "instruction_not_text": "line-3",
    }
    assert (report.rows, report.written) == (4, 2)
    read = [row for _, row in ChatFile(str(out)).rows(Tally())]
    assert [row.messages for row in read] == [[ASKED, ANSWERED]] * 2
    assert [(row.others["marks"], row.others.get("note")) for row in read] == [([1.5], None), ([2], "x")]


def test_nothing_is_written_where_no_row_can_be(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    source = write_jsonl(tmp_path / "in.jsonl", [{"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]}])
    with pytest.raises(InputError, match="no row can be written as dpo: same_answers: 1 rows, the first line-1"):
        convert(source, "dpo", out)
    with pytest.raises(InputError, match="no row can be read as openai"):
        convert(write_jsonl(tmp_path / "bad.jsonl", [{"messages": "x"}]), "sft", out)
    assert out.read_text() == "before" and len(list(tmp_path.iterdir())) == 3


def test_a_folder_for_a_trainer(tmp_path: Path) -> None:
    chats = [
        {"id": "a", "messages": [said("system", "Be brief."), ASKED, ANSWERED], "score": 1},
        {"id": "b", "messages": [ASKED, ASKED, ANSWERED]},
        {"id": "c", "messages": [ASKED]},
    ]
    source, out = write_jsonl(tmp_path / "in.jsonl", chats), tmp_path / "out"
    file = ChatFile(str(source))
    report = convert_for_trainer(file, Job("llama-factory"), out, file.look(), lambda *_: None)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *("README.md", "synthmill.json", "dataset_info.json", "chats_sft/train.jsonl"),
    }
    [row] = lines(out / "chats_sft/train.jsonl")
    assert row["id"] == "a" and [turn["from"] for turn in row["conversations"]] == ["system", "human", "gpt"]
    assert json.loads((out / "dataset_info.json").read_text())["chats_sft"]["file_name"] == "chats_sft/train.jsonl"
    places = {name: count.first for name, count in report.left_out.counts.items()}
    assert places == {"no_answer": "line-3", "turns that do not alternate between user or tool and assistant": "line-2"}
    assert list(report.lost.counts) == ["column score"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]
    with pytest.raises(InputError, match="has no prompts of chats; choose with --as: sft, pairs, kto, reward"):
        convert_for_trainer(file, Job("llama-factory", "prompts"), out, file.look(), lambda *_: None)


def test_every_trainer_that_reads_chats_gets_them(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [WRONG]}])
    for name in trainer_names():
        for use in set(trainer(name).forms) & set(ACCEPTED) - {"self-distillation"}:
            file = ChatFile(str(source))
            report = convert_for_trainer(file, Job(name, use), tmp_path / name / use, file.look(), lambda *_: None)
            assert report.written and not {"texts", "turns", "system messages"} & set(report.lost.counts), (name, use)


def test_what_a_trainer_cannot_hold_may_be_written_as_text(tmp_path: Path) -> None:
    chats: list[Fields] = [{"messages": [ASKED, ANSWERED], "tools": [TOOL]}, {"messages": [ASKED, ANSWERED]}]
    file = ChatFile(str(write_jsonl(tmp_path / "in.jsonl", chats)))
    plain = convert_for_trainer(file, Job("torchtune"), tmp_path / "a", file.look(), lambda *_: None)
    assert plain.written == 1 and plain.left_out.counts["tools"].first == "line-1"
    job = Job("torchtune", as_text=("tools",))
    texts = convert_for_trainer(file, job, tmp_path / "b", file.look(), lambda *_: None)
    assert texts.written == 2 and not texts.left_out.counts


def test_prompts_are_written_once(tmp_path: Path) -> None:
    file = ChatFile(str(write_jsonl(tmp_path / "in.jsonl", [{"prompt": text} for text in ("a", "b", "a")])))
    report = convert_for_trainer(file, Job("trl"), tmp_path / "out", file.look(), lambda *_: None)
    assert report.written == 2 and report.left_out.counts["a prompt that an earlier row has"].rows == 1
