"""Chats in other tools' forms: recognised by their columns, and read as what they mean."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.conversion.chat_files import ChatFile
from synthmill.storage.conversion.tally import Tally
from synthmill.storage.plain_files.chat_messages import ChatReader
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import chat_in, fitting, form_names, forms
from synthmill.storage.plain_files.pools import PoolFile
from synthmill.storage.plain_files.rows import read_chunks, read_prompts
from synthmill.storage.plain_files.turns import turns_kind
from tests.conftest import write_jsonl

Fields = dict[str, Any]
WEATHER = {
    "name": "weather",
    "description": "",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOL = {"type": "function", "function": WEATHER}
ASKED, ANSWERED = {"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "No."}


def said(role: str, content: str) -> Fields:
    return {"role": role, "content": content}


def call(arguments: str, name: str = "call_1", function: str = "weather") -> Fields:
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}


def read(fields: Fields, *, padded: bool = False) -> ChatRow:
    row = chat_in(fields, padded)
    assert row is not None
    return row


def turns(*pairs: tuple[str, str]) -> list[Fields]:
    return [{"from": role, "value": text} for role, text in pairs]


def test_every_form_has_a_name_and_columns_of_its_own() -> None:
    assert sorted(forms()) == form_names()
    for name, form in forms().items():
        for columns in form.columns:
            assert columns <= form.reads and list(fitting(columns)) == [name]


@pytest.mark.parametrize("user", ["human", "user", "Human", "prompter"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "chatgpt", "model"])
def test_sharegpt_in_all_spellings(user: str, assistant: str) -> None:
    chat = turns(("system", "Be brief."), (user, "Rain?"), (assistant, "No."))
    row = read({"conversations": chat, "score": 3})
    assert row.kind == "conversation" and row.messages == [said("system", "Be brief."), ASKED, ANSWERED]
    assert row.others == {"score": 3} and not row.lost


@pytest.mark.parametrize("function", ["function_call", "tool_call"])
@pytest.mark.parametrize("result", ["observation", "tool", "function", "tool_response"])
def test_sharegpt_calls(function: str, result: str) -> None:
    one = json.dumps({"name": "weather", "arguments": {"city": "Bonn"}})
    several = json.dumps([{"name": "weather", "arguments": '{"city": "Ulm"}'}, {"name": "weather", "parameters": {}}])
    chat = turns(
        ("human", "Rain?"),
        ("gpt", "I look."),
        (function, one),
        (result, "dry"),
        (function, f"<think>\nBoth.\n</think>\n\n{several}"),
        (result, "wet"),
        (result, "hot"),
        ("gpt", "It depends."),
    )
    row = read({"conversations": chat, "tools": json.dumps([WEATHER])})
    assert row.tools == [TOOL]
    assert row.messages == [
        ASKED,
        said("assistant", "I look.") | {"tool_calls": [call('{"city": "Bonn"}')]},
        said("tool", "dry") | {"tool_call_id": "call_1"},
        said("assistant", "")
        | {"reasoning_content": "Both.", "tool_calls": [call('{"city": "Ulm"}', "call_2"), call("{}", "call_3")]},
        said("tool", "wet") | {"tool_call_id": "call_2"},
        said("tool", "hot") | {"tool_call_id": "call_3"},
        said("assistant", "It depends."),
    ]


@pytest.mark.parametrize(
    "value",
    [
        'Let me see. {"name": "weather", "arguments": {"city": "Bonn"}}',
        'Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Bonn"}}</tool_call>',
        'Let me see. {"id": "call_1", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Bonn\\"}"}}',
    ],
)
def test_text_beside_a_call_within_one_turn(value: str) -> None:
    row = read({"conversations": turns(("human", "Rain?"), ("function_call", value))})
    assert row.messages[1] == said("assistant", "Let me see.") | {"tool_calls": [call('{"city": "Bonn"}')]}


def test_sharegpt_of_llama_factory() -> None:
    chat = turns(("human", "Rain?"), ("gpt", "No."))
    assert read({"conversations": chat, "system": "Be brief."}).messages[0] == said("system", "Be brief.")
    assert read({"conversations": chat, "system": ""}).messages == [ASKED, ANSWERED]
    own = read({"conversations": turns(("system", "a"), ("human", "Rain?")), "system": "b"})
    assert own.messages[0]["content"] == "a" and own.lost == ("the column system",)
    pair = {"chosen": {"from": "gpt", "value": "No."}, "rejected": {"from": "gpt", "value": "Yes."}}
    row = read({"conversations": chat[:1], **pair})
    assert (row.kind, row.messages, row.answers) == ("preference", [ASKED], [[ANSWERED], [said("assistant", "Yes.")]])
    row = read({"conversations": chat, "kto_tag": False})
    assert (row.kind, row.messages, row.answers, row.label) == ("label", [ASKED], [[ANSWERED]], False)


def test_alpaca() -> None:
    row = read({"instruction": "Rain?", "input": "", "output": "No.", "system": ""})
    assert row.kind == "conversation" and row.messages == [ASKED, ANSWERED]
    fields = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]}
    texts = [message["content"] for message in read(fields).messages]
    assert texts == ["s", "a", "b", "Add.\n1 2", "3"]
    assert read({"instruction": "Rain?", "input": None, "output": None}).kind == "prompt"
    pair = read({"instruction": "Rain?", "chosen": "No.", "rejected": "Yes."})
    assert pair.kind == "preference" and pair.answers[0] == [ANSWERED]
    assert read({"instruction": "Rain?", "output": "No.", "kto_tag": True}).label is True


def test_openai() -> None:
    chat = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Rain?", "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call('{"city":"Bonn"}', "abc")], "weight": 0},
        {"role": "tool", "content": "dry", "tool_call_id": "abc"},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "assistant", "content": "No.", "reasoning_content": "It is dry."},
    ]
    row = read({"messages": chat, "functions": [WEATHER]})
    assert row.lost == ("weight of messages",) and row.tools == [TOOL]
    assert row.messages == [
        said("system", "Be brief."),
        ASKED,
        said("assistant", "") | {"tool_calls": [call('{"city":"Bonn"}', "abc")]},
        said("tool", "dry") | {"tool_call_id": "abc"},
        said("assistant", "") | {"tool_calls": [call("{}")]},
        said("assistant", "No.") | {"reasoning_content": "It is dry."},
    ]
    sides = {"preferred_output": [ANSWERED], "non_preferred_output": [said("assistant", "Yes.")]}
    row = read({"input": {"messages": [ASKED], "tools": [TOOL], "parallel_tool_calls": True}, **sides})
    assert row.kind == "preference" and row.messages == [ASKED] and row.tools == [TOOL]


def test_trl_with_and_without_a_prompt() -> None:
    bad = said("assistant", "Yes.")
    pair = ("preference", [ASKED], [[ANSWERED], [bad]])
    explicit = read({"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [bad]})
    repeated = read({"prompt": [ASKED], "chosen": [ASKED, ANSWERED], "rejected": [ASKED, bad]})
    implicit = read({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, bad]})
    texts = read({"prompt": "Rain?", "chosen": "No.", "rejected": "Yes."})
    for row in (explicit, repeated, implicit, texts):
        assert (row.kind, row.messages, row.answers) == pair
    whole = read({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert [message["content"] for message in whole.messages] == ["The sky is"]
    assert [answer[0]["content"] for answer in whole.answers] == [" blue.", " black."]
    prefix = read({"chosen": "It is", "rejected": "It is not"})
    assert [answer[0]["content"] for answer in prefix.answers] == [" is", " is not"]
    assert read({"prompt": "Rain?", "completion": "No.", "label": True}).label is True
    assert read({"prompt": [ASKED], "completion": [ANSWERED]}).kind == "completion"
    assert read({"prompt": "Rain?", "system": "s"}).messages == [said("system", "s"), ASKED]


def test_ms_swift() -> None:
    chat = [ASKED, ANSWERED]
    for rejected in ({"rejected_response": "Yes."}, {"rejected_messages": [ASKED, said("assistant", "Yes.")]}):
        row = read({"messages": chat, **rejected})
        assert (row.messages, row.answers) == ([ASKED], [[ANSWERED], [said("assistant", "Yes.")]])
    assert forms()["ms-swift"].row({"messages": chat, "label": False}).label is False


def test_ranked_completions_of_nemo() -> None:
    def ranked(*ranks: int) -> Fields:
        completions = [{"rank": rank, "completion": [said("assistant", str(rank))]} for rank in ranks]
        return {"context": [ASKED], "completions": completions}

    pair = read(ranked(1, 0))
    assert pair.kind == "preference" and [answer[0]["content"] for answer in pair.answers] == ["0", "1"]
    row = read(ranked(1, 0, 2))
    assert (row.kind, row.ranks) == ("ranking", [1, 0, 2])
    assert read(ranked(1, 1)).kind == "ranking"


TRAJECTORY: Fields = {
    "schema_version": "ATIF-v1.6",
    "session_id": "s1",
    "agent": {"name": "terminus", "version": "2", "tool_definitions": [TOOL]},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be brief."},
        {"step_id": 2, "source": "user", "message": [{"type": "text", "text": "Rain?"}]},
        {
            "step_id": 3,
            "source": "agent",
            "message": "I look.",
            "reasoning_content": "Two cities.",
            "metrics": {"prompt_tokens": 7},
            "tool_calls": [
                {"tool_call_id": "c1", "function_name": "weather", "arguments": {"city": "Bonn"}},
                {"tool_call_id": "c2", "function_name": "weather", "arguments": {"city": "Ulm"}},
            ],
            "observation": {
                "results": [
                    {"source_call_id": "c2", "content": "wet"},
                    {"source_call_id": "c1", "content": "dry"},
                    {"content": "The shell is open."},
                ]
            },
        },
        {"step_id": 4, "source": "agent", "message": "It depends."},
    ],
}


def test_a_trajectory_of_an_agent(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(TRAJECTORY))
    [(place, row)] = ChatFile(str(path)).rows(Tally())
    assert place == "row-1" and row.tools == [TOOL] and row.others == {"session_id": "s1"}
    assert row.lost == ("name of the agent", "version of the agent", "metrics of steps")
    assert [message["role"] for message in row.messages] == [
        "system",
        *["user", "assistant", "tool", "tool", "user", "assistant"],
    ]
    assert row.messages[2]["reasoning_content"] == "Two cities." and len(row.messages[2]["tool_calls"]) == 2
    assert [message.get("tool_call_id") for message in row.messages[3:6]] == ["c2", "c1", None]


def test_nulls_that_stand_for_other_rows_are_no_fields(tmp_path: Path) -> None:
    other = {
        "type": "function",
        "function": {"name": "time", "parameters": {"properties": {"zone": {"type": "string"}}}},
    }
    rows: list[Fields] = [
        {
            "messages": [
                ASKED,
                said("assistant", "") | {"tool_calls": [{"function": {"name": name, "arguments": known}}]},
            ],
            "tools": [tool],
        }
        for name, known, tool in (("weather", {"city": "Bonn"}, TOOL), ("time", {"zone": "UTC"}, other))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    padded = [row for _, row in ChatFile(str(tmp_path / "in.parquet")).rows(Tally())]
    assert padded[0].messages[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bonn"}'
    assert padded[1].tools == [other]
    lines = ChatReader()
    assert lines.tools([other | {"strict": None}]) == [other]
    arguments = {"city": None, "zone": None}
    assert lines.call({"name": "time", "arguments": arguments})["function"]["arguments"] == '{"zone": null}'
    assert json.loads(ChatReader().call({"name": "time", "arguments": arguments})["function"]["arguments"]) == arguments


def test_a_file_of_two_forms_names_both(tmp_path: Path) -> None:
    rows = [{"messages": [ASKED, ANSWERED], "chosen": "No.", "rejected": "Yes.", "prompt": "Rain?"}]
    path = str(write_jsonl(tmp_path / "in.jsonl", rows))
    with pytest.raises(InputError, match=r"openai \(messages\) and as trl \(chosen, rejected\); choose with --from"):
        ChatFile(path)
    assert [row.kind for _, row in ChatFile(path, "trl").rows(Tally())] == ["preference"]
    assert [row.kind for _, row in ChatFile(path, "openai").rows(Tally())] == ["conversation"]
    with pytest.raises(InputError, match="no form of chats; found: text"):
        ChatFile(str(write_jsonl(tmp_path / "texts.jsonl", [{"text": "a"}])))
    with pytest.raises(Drop, match="ambiguous_form"):
        chat_in({"messages": [ASKED], "conversations": [ASKED]})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"conversations": []}, "bad_conversations"),
        ({"conversations": turns(("narrator", "x"))}, "unknown_role"),
        ({"conversations": turns(("function_call", "look it up"))}, "bad_function_call"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url in content"),
        ({"instruction": 5, "output": "x"}, "instruction_not_text"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "bad_history"),
        ({"context": "x", "completions": [{"completion": "y"}]}, "bad_completions"),
        ({"prompt": "x", "completion": "y", "label": "good"}, "bad_label"),
        ({"messages": [ASKED], "tools": "{"}, "bad_json"),
        ({"messages": [ASKED], "tools": [5]}, "bad_tools"),
        ({"schema_version": "ATIF-v1.4", "steps": [{"source": "robot"}]}, "bad_steps"),
    ],
)
def test_bad_rows_say_why(fields: Fields, reason: str) -> None:
    with pytest.raises(Drop) as drop:
        read(fields)
    assert drop.value.reason == reason


CHATS: list[Fields] = [
    {"conversations": turns(("system", "s"), ("human", "Rain?"), ("gpt", "No."))},
    {"instruction": "Rain?", "input": "", "output": "No.", "system": "s"},
    {"chosen": [said("system", "s"), ASKED, ANSWERED], "rejected": [said("system", "s"), ASKED, said("assistant", "")]},
    {"context": [said("system", "s"), ASKED], "completions": [{"rank": 0, "completion": [ANSWERED]}]},
    {**TRAJECTORY, "steps": [{"source": "system", "message": "s"}, {"source": "user", "message": "Rain?"}]},
]


def test_commands_that_read_prompts_read_all_forms(tmp_path: Path) -> None:
    for number, fields in enumerate(CHATS):
        settings = SourceSettings(path=str(write_jsonl(tmp_path / f"{number}.jsonl", [fields])))
        [chunk] = read_chunks(settings, 10)
        assert [(row.prompt, row.system) for row in chunk.rows] == [("Rain?", "s")]
        assert read_prompts(settings) == ["Rain?"]


def test_a_chat_is_a_turn_with_its_history() -> None:
    chat = turns(("human", "Hi"), ("gpt", "Hello"), ("human", "Rain?"), ("gpt", "No."))
    from synthmill.storage.plain_files.lines import Line

    row = turns_kind("").read(Line("line-1", {"conversations": chat, "gold": ["p1"]}), None)
    assert (row.question, row.answer, [turn.content for turn in row.history]) == ("Rain?", "No.", ["Hi", "Hello"])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_preferences_and_ranked_answers_are_pools(tmp_path: Path, ending: str) -> None:
    completions = [{"rank": rank, "completion": [said("assistant", f"a{rank}")]} for rank in (1, 0, 2)]
    path = tmp_path / f"in.{ending}"
    rows = [{"id": "x", "context": [said("system", "s"), ASKED], "completions": completions}]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    [table] = PoolFile(str(path)).tables()
    [pool] = table.to_pylist()
    assert (pool["prompt_id"], pool["prompt"], pool["system"]) == ("x", "Rain?", "s")
    assert (pool["answers"], pool["rewards"]) == (["a1", "a0", "a2"], [-1, 0, -2])
    pair = {"conversations": turns(("human", "Rain?")), "chosen": turns(("gpt", "No."))[0], "rejected": "Yes."}
    [table] = PoolFile(str(write_jsonl(tmp_path / "pairs.jsonl", [pair]))).tables()
    assert table.to_pylist()[0]["answers"] == ["No.", "Yes."]


def test_a_column_that_was_named_is_not_another(tmp_path: Path) -> None:
    rows = [{"prompt": "Rain?", "completion": "No."}]
    settings = SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", rows)), prompt_column="question")
    with pytest.raises(InputError, match="has no column 'question'"):
        list(read_chunks(settings, 10))
