"""Trainers' formats, splits without a shared prompt, shards, licences, and the last look for secrets."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.schemas.errors import InputError
from synthmill.schemas.formats import FORMATS
from synthmill.schemas.licenses import most_restrictive
from synthmill.storage.published.configurations import Content, Dataset, Table
from synthmill.storage.published.formats import format_tables
from synthmill.storage.published.leaks import check_no_secret
from synthmill.storage.published.provenance import public_file
from synthmill.storage.published.splits import first_user_text, split_by_prompt


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pairs(count: int, prompts: int | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "id": f"pair{n}",
                "parent_id": f"pool{n}",
                "prompt": [said("system", "Be brief."), said("user", f"Question {n % (prompts or count)}?")],
                "chosen": [said("assistant", f"good {n}")],
                "rejected": [said("assistant", f"bad {n}")],
                "chosen_reward": 1.0,
            }
            for n in range(count)
        ]
    )


def tables(count: int = 4) -> dict[str, Table]:
    rows = pairs(count)
    chats = pl.DataFrame(
        [
            {
                "id": f"chat{n}",
                "messages": [
                    said("user", f"Question {n}?"),
                    said("assistant", "a"),
                    said("user", "b"),
                    said("assistant", "c"),
                ],
                "tools": json.dumps([{"type": "function", "function": {"name": "look", "parameters": {}}}]),
            }
            for n in range(count)
        ]
    )
    mined = pl.DataFrame({"id": ["t"], "conversation": ["x"], "anchor": ["q"], "positive": ["p"], "negative": ["n"]})
    completions = rows.select("id", "prompt", completion="chosen")
    prompts = pl.DataFrame({"id": ["p1", "p2"], "prompt": ["a", "b"], "system": ["s", None]})
    return {
        "preference": Table.of(rows, "preferences", "a pair"),
        "sft": Table.of(chats, "conversations", "a chat"),
        "picks": Table.of(completions, "completions", "an answer"),
        "mined": Table.of(mined, "triplets", "a triplet"),
        "prompts": Table.of(prompts, "prompts", "a prompt"),
        "bench": Table({"test": pl.DataFrame({"id": ["x"], "prompt": ["y"]})}, "other", "a row"),
    }


def whole(content: Content) -> bytes:
    return content if isinstance(content, bytes) else b"".join(content())


def ids_of(table: Table, split: str) -> list[str]:
    return table.splits[split].frame(["id"])["id"].to_list()


def test_each_format_is_what_its_trainer_reads() -> None:
    made, files = format_tables(tables(), FORMATS)
    frames = {name: table.splits["train"].frame() for name, table in made.items() if "train" in table.splits}
    first = {name: frame.row(0, named=True) for name, frame in frames.items()}
    question = [said("system", "Be brief."), said("user", "Question 0?")]
    assert first["preference"] == first["preference_dpo"]
    assert first["preference_sft"]["messages"] == [*question, said("assistant", "good 0")]
    assert first["preference_dpo_plain"]["prompt"] == "Be brief.\n\nQuestion 0?"
    assert (first["preference_dpo_plain"]["chosen"], first["preference_dpo_plain"]["rejected"]) == ("good 0", "bad 0")
    kto = frames["preference_kto"]
    assert kto["label"].to_list() == [True, False] * 4
    assert kto["id"].to_list()[:2] == ["pair0-chosen", "pair0-rejected"]
    assert first["preference_reward"]["rejected"] == [*question, said("assistant", "bad 0")]
    assert first["preference_prompts"]["prompt"] == question
    assert first["preference_sharegpt"]["conversations"][1] == {"from": "human", "value": "Question 0?"}
    assert first["preference_sharegpt"]["chosen"] == {"from": "gpt", "value": "good 0"}
    alpaca = first["sft_alpaca"]
    assert (alpaca["instruction"], alpaca["input"], alpaca["output"]) == ("b", "", "c")
    assert alpaca["history"] == [["Question 0?", "a"]]
    assert first["preference_alpaca"]["system"] == "Be brief."
    assert first["prompts_prompts"]["prompt"] == [said("system", "s"), said("user", "a")]
    assert frames["prompts_prompts"]["prompt"].to_list()[1] == [said("user", "b")]
    assert made["mined_triplets"].splits["train"].columns == ["anchor", "positive", "negative"]
    assert whole(files["ids/mined_triplets-train.txt"]) == b"t\n"
    line = json.loads(whole(files["openai/sft-train.jsonl"]).splitlines()[0])
    assert set(line) == {"messages", "tools"} and line["tools"][0]["function"]["name"] == "look"
    line = json.loads(whole(files["openai/preference-train.jsonl"]).splitlines()[0])
    assert line["input"]["messages"] == question and line["preferred_output"] == [said("assistant", "good 0")]
    assert whole(files["ids/preference_openai-train.txt"]).decode().split() == [f"pair{n}" for n in range(4)]
    assert "bench_sft" not in made and "mined_dpo" not in made


def test_calls_of_tools_keep_their_arguments() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    chat = [
        said("user", "hi"),
        {**said("assistant", ""), "tool_calls": [call]},
        {**said("tool", "found"), "tool_call_id": "c1"},
        said("assistant", "done"),
        said("user", "and then nobody answered"),
    ]
    rows = pl.DataFrame([{"id": "a", "messages": [json.dumps(one) for one in chat], "tools": "[]"}])
    made, files = format_tables({"sft": Table.of(rows, "conversations", "")}, ["sharegpt", "openai"])
    turns = made["sft_sharegpt"].rows.frame()["conversations"].to_list()[0]
    assert [turn["from"] for turn in turns] == ["human", "function_call", "observation", "gpt"]  # the last one goes
    assert json.loads(turns[1]["value"]) == {"name": "look", "arguments": {"at": "x"}}
    told = json.loads(whole(files["openai/sft-train.jsonl"]))["messages"]
    assert told[0] == said("user", "hi")
    assert told[1]["tool_calls"] == [call] and told[2]["tool_call_id"] == "c1"


def test_a_format_that_suits_nothing_says_what_there_is() -> None:
    with pytest.raises(InputError, match=r"cannot|triplets; there is preference \(preferences\)"):
        format_tables({"preference": tables()["preference"]}, ["triplets"])


def test_no_prompt_is_on_both_sides_and_rows_stay_where_they_are() -> None:
    given_ = tables(400)
    split = split_by_prompt(given_, 0.25)
    assert split["bench"].rows.frame().equals(given_["bench"].rows.frame())
    sides: dict[str, set[str]] = {"train": set(), "test": set()}
    for name in ("preference", "sft", "picks"):
        rows = split[name].splits
        assert rows["train"].height + rows["test"].height == 400
        for side, stream in rows.items():
            column = "messages" if name == "sft" else "prompt"
            sides[side] |= {first_user_text(prompt) for prompt in stream.frame()[column].to_list()}
    assert not sides["train"] & sides["test"]
    assert 60 <= len(sides["test"]) <= 140
    more = ids_of(split_by_prompt(tables(800), 0.25)["preference"], "test")
    assert [one for one in more if int(one.removeprefix("pair")) < 400] == ids_of(split["preference"], "test")


def test_what_is_tested_anywhere_is_trained_on_nowhere() -> None:
    rows = pairs(40)
    own = Table({"train": rows[:20], "test": rows[20:]}, "preferences", "")
    split = split_by_prompt({"rm": own, "dpo": Table.of(rows, "preferences", "")}, 0.2)
    tested = {first_user_text(one) for name in split for one in split[name].splits["test"].frame()["prompt"].to_list()}
    trained = {
        first_user_text(one) for name in split for one in split[name].splits["train"].frame()["prompt"].to_list()
    }
    assert not tested & trained and set(rows[20:]["id"]) <= set(ids_of(split["dpo"], "test"))
    assert split["rm"].splits["test"].height > 20


def test_rows_of_a_conversation_or_a_parent_stay_together() -> None:
    rows = pl.DataFrame(
        {
            "id": [f"{n}" for n in range(300)],
            "conversation": [f"c{n // 3}" for n in range(300)],
            "prompt": [f"p{n}" for n in range(300)],
        }
    )
    split = split_by_prompt({"a": Table.of(rows, "prompts", "")}, 0.3)["a"].splits
    train, test = (set(split[side].frame()["conversation"]) for side in ("train", "test"))
    assert not train & test and split["test"].height > 30


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=30), st.floats(0.01, 0.99))
def test_splits_lose_no_row(given_: list[tuple[str, int]], share: float) -> None:
    rows = pl.DataFrame(
        [{"id": f"r{n}", "parent_id": f"{parent}", "prompt": prompt} for n, (prompt, parent) in enumerate(given_)],
        schema={"id": pl.String, "parent_id": pl.String, "prompt": pl.String},
    )
    split = split_by_prompt({"a": Table.of(rows, "prompts", "")}, share)["a"].splits
    train, test = split["train"].frame(), split["test"].frame()
    assert (train.height, test.height) == (split["train"].height, split["test"].height)
    assert sorted([*train["id"], *test["id"]]) == sorted(rows["id"])
    assert not set(train["parent_id"]) & set(test["parent_id"])


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (["mit", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["CC0-1.0"], "cc0-1.0"),
        (["apache-2.0", "apache-2.0"], "apache-2.0"),
        (["mit", ""], "unknown"),
        ([], "unknown"),
        (["mit", "my-own"], "other"),
        (["my-own"], "my-own"),
        (["cc-by-sa-3.0", "cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["gpl-3.0", "cc-by-sa-4.0"], "other"),
        (["mit", "cc-by-sa-4.0", "cc-by-nc-sa-4.0"], "other"),
        (["agpl-3.0", "cc-by-nc-4.0"], "other"),
        (["cc-by-nc-4.0", "cc-by-nc-nd-4.0"], "cc-by-nc-nd-4.0"),
    ],
)
def test_the_most_restrictive_licence_is_named(given_: list[str], expected: str) -> None:
    assert most_restrictive(given_) == expected


def test_files_beside_a_dataset_say_nothing_of_the_machine() -> None:
    told = {"tokenizer": "/home/me/models/qwen", "gap": 0.1, "base_url": "http://10.0.0.1/v1", "said": "/no_think"}
    made = json.loads(public_file("thresholds-rip.json", json.dumps(told).encode()))
    assert made == {"tokenizer": "qwen", "gap": 0.1, "said": "/no_think"}
    assert public_file("values.svg", b"<svg/>") == b"<svg/>"


def test_a_secret_in_a_row_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pairs(3).with_columns(chosen=pl.lit([said("assistant", 'the key is "sk-planted\\42"')]))
    dataset = Dataset("t", "i", {"preference": Table.of(rows, "preferences", "")})
    check_no_secret(dataset, "card")
    monkeypatch.setenv("SOME_API_KEY", 'sk-planted\\42"')
    with pytest.raises(InputError, match=r"preference, train.*SOME_API_KEY") as raised:
        check_no_secret(dataset, "card")
    assert "sk-planted" not in raised.value.message
