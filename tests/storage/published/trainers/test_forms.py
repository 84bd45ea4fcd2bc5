"""What each trainer's reader takes, by the values seen in its named version."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.schemas.errors import InputError
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.known_trainers import trainer, trainer_names
from synthmill.storage.published.shards import write_shards
from synthmill.storage.published.trainers.llama_factory import ANSWERS, BETWEEN_RESULTS, PROMPTS
from tests.storage.published.trainers.samples import (
    ANSWER,
    ASK,
    BESIDE,
    COMPLETION,
    LOOK,
    ONE_CALL,
    PAIR,
    PAIR_WITH_TOOLS,
    PLAIN,
    RL,
    SYSTEM,
    TOOLS,
    TWO_CALLS,
    Message,
    answers,
    calling,
    chats,
    exported,
    lines_of,
    result,
    turn,
    whole,
)


def test_llama_factory_takes_turns_and_json_alone() -> None:
    one, two = lines_of("llama-factory", chats(ONE_CALL, TWO_CALLS, tools=TOOLS))
    assert [row["from"] for row in one["conversations"]] == ["system", "human", "function_call", "observation", "gpt"]
    assert json.loads(one["conversations"][2]["value"]) == {"name": "look", "arguments": {"at": "x"}}
    assert [call["arguments"]["at"] for call in json.loads(two["conversations"][1]["value"])] == ["x", "y"]
    assert two["conversations"][2] == {"from": "observation", "value": f"seen{BETWEEN_RESULTS}not seen"}
    assert isinstance(one["tools"], str) and json.loads(one["tools"]) == [LOOK]
    made = exported("llama-factory", chats(ONE_CALL, tools=TOOLS))
    info = orjson.loads(whole(made.files["dataset_info.json"]))
    assert info["t_sft"]["columns"] == {"messages": "conversations", "tools": "tools"}


def test_llama_factory_ranks_single_turns_and_tags_the_last_answer() -> None:
    [row] = lines_of("llama-factory", PAIR, "pairs")
    assert row["chosen"] == {"from": "gpt", "value": "Here."}
    assert row["conversations"] == [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": ASK["content"]},
    ]
    made = exported("llama-factory", PAIR, "pairs", "kto", "reward")
    info = orjson.loads(whole(made.files["dataset_info.json"]))
    assert info["t_pairs"]["ranking"] and info["t_reward"]["ranking"]
    assert info["t_kto"]["columns"] == {"messages": "conversations", "kto_tag": "kto_tag"}
    good, bad = lines_of("llama-factory", PAIR, "kto")
    assert (good["kto_tag"], bad["kto_tag"]) == (True, False) and good["conversations"][-1]["value"] == "Here."


MESSAGES = st.sampled_from([SYSTEM, ASK, ANSWER, calling("x"), result("seen"), calling("x", text="I look.")])


@settings(max_examples=40, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=6))
def test_llama_factory_drops_no_row_of_an_export(chat: list[Message]) -> None:
    try:
        [row] = lines_of("llama-factory", chats(chat))
    except InputError:
        return
    turns = row["conversations"]
    turns = turns[1:] if turns[0]["from"] == "system" else turns
    assert len(turns) % 2 == 0
    assert all(each["from"] in (ANSWERS if place % 2 else PROMPTS) for place, each in enumerate(turns))
    assert all(isinstance(json.loads(each["value"]), dict) for each in turns if each["from"] == "function_call")


def test_axolotl_reads_calls_in_messages_and_learns_from_what_it_is_told() -> None:
    made = exported("axolotl", chats(ONE_CALL, tools=TOOLS))
    [block] = yaml.safe_load(whole(made.files["t_sft.yaml"]))["datasets"]
    assert (block["type"], block["field_messages"]) == ("chat_template", "messages")
    assert block["message_property_mappings"] == {"role": "role", "content": "content"}
    [row] = lines_of("axolotl", chats(ONE_CALL, tools=TOOLS))
    assert row["messages"][2]["tool_calls"][0]["function"]["name"] == "look"
    assert {frozenset(message) for message in row["messages"]} == {
        frozenset(("role", "content", "tool_calls", "tool_call_id"))
    }
    [row] = lines_of("axolotl", COMPLETION)
    assert [message["training"] for message in row["messages"]] == [False] * 4 + [True]
    pairs = yaml.safe_load(whole(exported("axolotl", PAIR, "pairs").files["t_pairs.yaml"]))
    assert pairs["rl"] == "dpo" and pairs["datasets"][0]["field_messages"] == "prompt"
    assert pairs["datasets"][0]["type"] == "chat_template.default"
    kto = yaml.safe_load(whole(exported("axolotl", PAIR, "kto").files["t_kto.yaml"]))
    assert kto["datasets"][0]["type"] == "chatml.argilla_chat"
    assert lines_of("axolotl", PAIR, "kto")[0]["completion"] == [SYSTEM, ASK, ANSWER]
    [row] = lines_of("axolotl", PAIR, "reward")
    assert (row["system"], row["input"], row["chosen"]) == ("Be brief.", ASK["content"], "Here.")


def test_ms_swift_has_a_turn_for_each_call_and_both_sides_whole() -> None:
    one, two, beside = lines_of("ms-swift", chats(ONE_CALL, TWO_CALLS, BESIDE, tools=TOOLS))
    roles = [message["role"] for message in two["messages"]]
    assert roles == ["user", "tool_call", "tool_call", "tool_response", "tool_response", "assistant"]
    assert [message["content"] for message in beside["messages"][1:3]] == [
        "I look.",
        '{"name": "look", "arguments": {"at": "x"}}',
    ]
    assert set(one["messages"][0]) == {"role", "content"}
    [row] = lines_of("ms-swift", PAIR, "pairs")
    assert row["messages"] == [SYSTEM, ASK, ANSWER] and "prompt" not in row
    assert row["rejected_messages"] == [SYSTEM, ASK, turn("assistant", "Somewhere.")]
    [row] = lines_of("ms-swift", PAIR_WITH_TOOLS, "pairs")
    assert row["tools"] == row["rejected_tools"] == TOOLS
    assert [row["label"] for row in lines_of("ms-swift", PAIR, "kto")] == [True, False]
    [row] = lines_of("ms-swift", COMPLETION)
    assert [message["loss"] for message in row["messages"]] == [False] * 4 + [True]


def test_openrlhf_is_told_that_rows_are_lists() -> None:
    script = whole(exported("openrlhf", PAIR, "pairs", "reward", "sft").files["train.sh"]).decode()
    commands = [line for line in script.splitlines() if line.startswith("python")]
    assert len(commands) == 3 and all("--data.apply_chat_template" in line for line in commands)
    assert sum("--data.prompt_key prompt" in line for line in commands) == 2
    assert "--data.input_key prompt --data.output_key completion" in script
    script = whole(exported("openrlhf", chats(PLAIN)).files["train.sh"]).decode()
    assert "--data.input_key messages --data.multiturn" in script


def test_verl_has_structs_and_torchtune_whole_conversations() -> None:
    [row] = exported("verl", chats(PLAIN)).tables["t_sft"].rows.frame().to_dicts()
    assert row["messages"] == PLAIN
    [row] = lines_of("torchtune", PAIR)
    assert row["chosen"] == [SYSTEM, ASK, ANSWER] and "prompt" not in row
    dataset = yaml.safe_load(whole(exported("torchtune", chats(PLAIN)).files["t_sft.yaml"]))["dataset"]
    assert dataset["_component_"] == "torchtune.datasets.chat_dataset"


def test_plain_readers_of_json_get_objects_without_empty_keys() -> None:
    for name in ("mlx-lm", "nemo-rl"):
        [row] = lines_of(name, chats(ONE_CALL, tools=TOOLS))
        assert row["tools"] == [LOOK] and row["messages"][0] == SYSTEM
        assert row["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"at": "x"}
    [row] = lines_of("openai", chats(ONE_CALL, tools=TOOLS))
    assert row == {"messages": ONE_CALL, "tools": [LOOK]}
    settings = yaml.safe_load(whole(exported("nemo-rl", COMPLETION).files["t_sft.yaml"]))
    assert settings["sft"] == {"only_unmask_final": True} and settings["data"]["train"]["use_preserving_dataset"]
    assert [message.get("weight") for message in lines_of("openai", COMPLETION)[0]["messages"]] == [
        None,
        None,
        0,
        None,
        None,
    ]
    [row] = lines_of("nemo-rl", PAIR)
    assert [entry["rank"] for entry in row["completions"]] == [0, 1] and row["context"] == [SYSTEM, ASK]
    assert row["completions"][0]["completion"] == [ANSWER]


def test_sides_of_a_pair_may_have_other_fields() -> None:
    table = answers("preferences", [ASK], chosen=[calling("x")], rejected=[ANSWER])
    called, answered = lines_of("ms-swift", table, "kto")
    assert [turn["role"] for turn in called["messages"]] == ["user", "tool_call"] and called["label"]
    assert answered["messages"][-1] == ANSWER and not answered["label"]


def test_a_split_to_validate_on_has_the_name_that_its_trainer_looks_for() -> None:
    both = {"train": chats(PLAIN).rows, "test": chats(PLAIN).rows}
    table = Table(both, "conversations", "a chat")
    shards = Dataset("", "", exported("mlx-lm", table).tables).shards()
    assert [files.names for files in shards.values()] == [["t_sft/train.jsonl"], ["t_sft/valid.jsonl"]]
    info = orjson.loads(whole(exported("llama-factory", table).files["dataset_info.json"]))
    assert info["t_sft_test"]["file_name"] == "t_sft/test.jsonl"


def test_lines_are_cut_into_files_where_the_reader_takes_several(tmp_path: Path) -> None:
    table = chats(*[PLAIN] * 5)
    small = exported("axolotl", table).tables["t_sft"].rows.size // 5 * 2 + 1
    made = exported("axolotl", table, shard_bytes=small)
    [shards] = Dataset("", "", made.tables, shard_bytes=small).shards().values()
    names = [f"t_sft/train-0000{n}-of-00003.jsonl" for n in range(3)]
    assert shards.names == names and shards.pattern == "t_sft/train-*-of-00003.jsonl"
    write_shards(tmp_path, shards, made.tables["t_sft"].rows)
    assert [(tmp_path / name).read_bytes().count(b"\n") for name in names] == [2, 2, 1]
    blocks = yaml.safe_load(whole(made.files["t_sft.yaml"]))["datasets"]
    assert [block["path"] for block in blocks] == names
    info = orjson.loads(whole(exported("llama-factory", table, shard_bytes=small).files["dataset_info.json"]))
    assert {name: entry["file_name"] for name, entry in info.items()} == dict(
        zip(("t_sft", "t_sft_2", "t_sft_3"), names, strict=True)
    )
    script = whole(exported("ms-swift", table, shard_bytes=small).files["train.sh"]).decode()
    assert f"--dataset {' '.join(names)}\n" in script
    [one] = Dataset("", "", exported("mlx-lm", table, shard_bytes=small).tables, shard_bytes=small).shards().values()
    assert one.names == ["t_sft/train.jsonl"]


def test_torchtune_learns_the_last_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the component beside the rows, on stand-ins for the two names that it imports."""
    monkeypatch.setitem(sys.modules, "torchtune", ModuleType("torchtune"))
    monkeypatch.setitem(sys.modules, "torchtune.data", SimpleNamespace(Message=dict))
    monkeypatch.setitem(sys.modules, "torchtune.datasets", SimpleNamespace(PreferenceDataset=dict))
    table = answers("preferences", PLAIN[:-1], chosen=[ANSWER], rejected=[turn("assistant", "No.")])
    made = exported("torchtune", table)
    component: dict[str, Any] = {}
    exec(whole(made.files["pairs_of_last_answers.py"]), component)
    settings = yaml.safe_load(whole(made.files["t_pairs.yaml"]))["dataset"]
    assert settings.pop("_component_") == "pairs_of_last_answers.dataset"
    rows = component["dataset"]("tokenizer", **settings)
    assert (rows["source"], rows["data_files"], rows["split"]) == ("json", ["t_pairs/train.jsonl"], "train")
    [row] = lines_of("torchtune", table)
    for side, last in (("chosen", ANSWER), ("rejected", turn("assistant", "No."))):
        chat = rows["message_transform"](row)[side]
        assert [message.pop("masked") for message in chat] == [True] * 4 + [False]
        assert chat == [*PLAIN[:-1], last]


def test_trl_learns_from_completions_alone_and_gets_arguments_as_objects() -> None:
    [row] = exported("trl", COMPLETION, "sft").tables["t_sft"].rows.frame().to_dicts()
    assert row["prompt"] == PLAIN[:-1] and row["completion"] == PLAIN[-1:]
    table = exported("trl", chats(ONE_CALL, tools=TOOLS), "sft").tables["t_sft"]
    [row] = table.rows.frame().to_dicts()
    messages = [json.loads(message) for message in row["messages"]]
    assert messages[0] == SYSTEM and messages[2]["tool_calls"][0]["function"]["arguments"] == {"at": "x"}
    assert "messages" in table.objects and json.loads(row["tools"]) == [LOOK]


def test_a_context_to_do_without_stands_beside_the_opening() -> None:
    made = exported("trl", chats(PLAIN, PLAIN[1:])).tables
    [row] = made["t_self_distillation"].rows.frame().to_dicts()
    assert row == {"id": "chat0", "prompt": [ASK], "privileged_context": "Be brief."}
    assert made["t_sft"].height == 2
    assert "t_self_distillation" not in exported("trl", chats(PLAIN[1:])).tables
    said = {"id": ["a", "b", "c"], "context": ["You help."] * 3, "pseudo_input": ["Hi", "Hi", "Go"]}
    dialogues = Table.of(pl.DataFrame({**said, "kept": [True, True, False]}), "other", "a dialogue")
    [row] = exported("trl", dialogues).tables["t_self_distillation"].rows.frame().to_dicts()
    assert row == {"id": "a", "prompt": [turn("user", "Hi")], "privileged_context": "You help."}


def test_thinking_is_where_each_reader_takes_it() -> None:
    thought = [ASK, turn("assistant", "Here.", reasoning_content="Hm.")]
    marked = "<think>\nHm.\n</think>\n\nHere."
    assert lines_of("axolotl", chats(thought))[0]["messages"][1]["reasoning_content"] == "Hm."
    assert lines_of("ms-swift", chats(thought))[0]["messages"][1]["content"] == marked
    assert lines_of("ms-swift", chats(thought), thinking="drop")[0]["messages"][1]["content"] == "Here."
    assert lines_of("openai", chats(thought))[0]["messages"] == [ASK, ANSWER]
    with pytest.raises(InputError, match="ms-swift reads no field for thinking"):
        lines_of("ms-swift", chats(thought), thinking="field")
    calls = [ASK, {**calling("x"), "reasoning_content": "Hm."}, result("seen"), ANSWER]
    [row] = lines_of("llama-factory", chats(calls, tools=TOOLS))
    assert row["conversations"][1]["value"] == '<think>\nHm.\n</think>\n\n{"name": "look", "arguments": {"at": "x"}}'


@pytest.mark.parametrize("name", trainer_names())
def test_a_trainer_says_how_to_load_every_use_in_few_lines(name: str) -> None:
    known = trainer(name)
    tables: list[Any] = [chats(PLAIN), PAIR, RL]
    for use in known.forms:
        for table in tables:
            try:
                made = exported(name, table, use, as_text=("system",))
            except InputError:
                continue
            assert f"`t_{use.replace('-', '_')}" in made.readme
    assert known.title and known.version


def test_answers_of_several_messages_go_where_they_can_be_held() -> None:
    steps = [calling("x"), result("seen"), ANSWER]
    pair = answers("preferences", [ASK], chosen=steps, rejected=[ANSWER])
    [row] = lines_of("ms-swift", pair)
    assert [message["role"] for message in row["messages"]] == ["user", "tool_call", "tool_response", "assistant"]
    with pytest.raises(InputError, match=r"an answer of several messages in 1 of 1 rows"):
        exported("llama-factory", pair)
