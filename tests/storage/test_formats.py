"""Trainers' formats, splits without a shared prompt, shards, licences, and the last look for secrets."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError, StoreError
from schemas.formats import FORMATS
from schemas.licenses import most_restrictive
from storage import dataset_folder
from storage.dataset_folder import Dataset, Table, is_finished, is_ours, read_dataset, write_dataset
from storage.files import write_atomically
from storage.formats import formatted
from storage.leaks import check_no_secret
from storage.provenance import public_file
from storage.splits import first_said, split_by_prompt


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


def test_each_format_is_what_its_trainer_reads() -> None:
    made, files = formatted(tables(), FORMATS)
    first = {name: table.splits["train"].row(0, named=True) for name, table in made.items() if "train" in table.splits}
    question = [said("system", "Be brief."), said("user", "Question 0?")]
    assert first["preference"] == first["preference_dpo"]
    assert first["preference_sft"]["messages"] == [*question, said("assistant", "good 0")]
    assert first["preference_dpo_plain"]["prompt"] == "Be brief.\n\nQuestion 0?"
    assert (first["preference_dpo_plain"]["chosen"], first["preference_dpo_plain"]["rejected"]) == ("good 0", "bad 0")
    kto = made["preference_kto"].splits["train"]
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
    assert made["prompts_prompts"].splits["train"]["prompt"].to_list()[1] == [said("user", "b")]
    assert made["mined_triplets"].splits["train"].columns == ["anchor", "positive", "negative"]
    assert files["ids/mined_triplets-train.txt"] == b"t\n"
    line = json.loads(files["openai/sft-train.jsonl"].splitlines()[0])
    assert set(line) == {"messages", "tools"} and line["tools"][0]["function"]["name"] == "look"
    line = json.loads(files["openai/preference-train.jsonl"].splitlines()[0])
    assert line["input"]["messages"] == question and line["preferred_output"] == [said("assistant", "good 0")]
    assert files["ids/preference_openai-train.txt"].decode().split() == [f"pair{n}" for n in range(4)]
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
    made, files = formatted({"sft": Table.of(rows, "conversations", "")}, ["sharegpt", "openai"])
    turns = made["sft_sharegpt"].splits["train"]["conversations"].to_list()[0]
    assert [turn["from"] for turn in turns] == ["human", "function_call", "observation", "gpt"]  # the last one goes
    assert json.loads(turns[1]["value"]) == {"name": "look", "arguments": {"at": "x"}}
    told = json.loads(files["openai/sft-train.jsonl"])["messages"]
    assert told[0] == said("user", "hi")
    assert told[1]["tool_calls"] == [call] and told[2]["tool_call_id"] == "c1"


def test_a_format_that_suits_nothing_says_what_there_is() -> None:
    with pytest.raises(InputError, match=r"cannot|triplets; there is preference \(preferences\)"):
        formatted({"preference": tables()["preference"]}, ["triplets"])


def test_no_prompt_is_on_both_sides_and_rows_stay_where_they_are() -> None:
    given_ = tables(400)
    split = split_by_prompt(given_, 0.25)
    assert split["bench"].splits["test"].equals(given_["bench"].splits["test"])
    sides: dict[str, set[str]] = {"train": set(), "test": set()}
    for name in ("preference", "sft", "picks"):
        rows = split[name].splits
        assert rows["train"].height + rows["test"].height == 400
        for side, frame in rows.items():
            column = "messages" if name == "sft" else "prompt"
            sides[side] |= {first_said(prompt) for prompt in frame[column].to_list()}
    assert not sides["train"] & sides["test"]
    assert 60 <= len(sides["test"]) <= 140
    more = split_by_prompt(tables(800), 0.25)["preference"].splits["test"]["id"].to_list()
    assert [one for one in more if int(one.removeprefix("pair")) < 400] == split["preference"].splits["test"][
        "id"
    ].to_list()


def test_what_is_tested_anywhere_is_trained_on_nowhere() -> None:
    rows = pairs(40)
    own = Table({"train": rows[:20], "test": rows[20:]}, "preferences", "")
    split = split_by_prompt({"rm": own, "dpo": Table.of(rows, "preferences", "")}, 0.2)
    tested = {first_said(one) for name in split for one in split[name].splits["test"]["prompt"].to_list()}
    trained = {first_said(one) for name in split for one in split[name].splits["train"]["prompt"].to_list()}
    assert not tested & trained and set(rows[20:]["id"]) <= set(split["dpo"].splits["test"]["id"])
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
    assert not set(split["train"]["conversation"]) & set(split["test"]["conversation"])
    assert split["test"].height > 30


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=30), st.floats(0.01, 0.99))
def test_splits_lose_no_row(given_: list[tuple[str, int]], share: float) -> None:
    rows = pl.DataFrame(
        [{"id": f"r{n}", "parent_id": f"{parent}", "prompt": prompt} for n, (prompt, parent) in enumerate(given_)],
        schema={"id": pl.String, "parent_id": pl.String, "prompt": pl.String},
    )
    split = split_by_prompt({"a": Table.of(rows, "prompts", "")}, share)["a"].splits
    assert sorted([*split["train"]["id"], *split["test"]["id"]]) == sorted(rows["id"])
    assert not set(split["train"]["parent_id"]) & set(split["test"]["parent_id"])


def test_shards_are_bounded_and_read_back(tmp_path: Path) -> None:
    rows = pairs(1000)
    dataset = Dataset(
        "Title", "Intro.", {"a": Table.of(rows, "preferences", "a pair"), "none": Table.of(rows[:0], "other", "")}
    )
    size = rows.to_arrow().nbytes
    assert write_dataset(tmp_path / "out", dataset, "card", shard_bytes=size // 5) == 1000
    shards = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert 3 <= len(shards) <= 6 and shards[0].startswith("train-00000-of-0000")
    again = read_dataset(tmp_path / "out")
    assert again.tables["a"].rows.equals(rows) and again.tables["a"].kind == "preferences"
    write_dataset(tmp_path / "out", dataset, "card")
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert is_ours(tmp_path / "out") and is_ours(tmp_path / "absent") and not is_ours(Path(__file__).parent)


def test_nothing_but_our_own_files_goes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.parquet").write_text("precious")
    first = Dataset("t", "i", {"a": Table.of(pairs(4), "preferences", "")}, files={"ids/a-test.txt": b"x"})
    write_dataset(tmp_path, first, "card", shard_bytes=1)
    assert len(list((tmp_path / "data").iterdir())) == 5
    write_dataset(tmp_path, Dataset("t", "i", first.tables), "card")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"README.md", "synthmill.json", "data/mine.parquet", "data/train-00000-of-00001.parquet"}
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(StoreError, match="is damaged"):
        read_dataset(tmp_path)


def test_an_unfinished_dataset_is_ours_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset("t", "i", {"a": Table.of(pairs(40), "preferences", "")})
    written = []

    def dying(path: Path, write: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_atomically(path, write)

    monkeypatch.setattr(dataset_folder, "write_atomically", dying)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "out", dataset, "card", shard_bytes=1)
    monkeypatch.undo()
    assert is_ours(tmp_path / "out") and not is_finished(tmp_path / "out")
    write_dataset(tmp_path / "out", dataset, "card")
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]


def test_a_foreign_marker_reaches_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    for marker in (
        {"configs": {}, "files": ["../precious.txt"], "written": ["../precious.txt", 1, None]},
        {"configs": 5, "files": [], "written": []},
        {"configs": {}},
        [],
    ):
        (folder / "synthmill.json").write_text(json.dumps(marker))
        (folder / "README.md").write_text("x")
        with pytest.raises((InputError, StoreError)):
            read_dataset(folder)
        write_dataset(folder, Dataset("t", "i", {"a": Table.of(pairs(2), "preferences", "")}), "card")
    assert (tmp_path / "precious.txt").read_text() == "precious"


def test_a_shard_that_is_another_is_damage(tmp_path: Path) -> None:
    write_dataset(tmp_path, Dataset("t", "i", {"a": Table.of(pairs(4), "preferences", "")}), "card")
    shard = tmp_path / "data" / "train-00000-of-00001.parquet"
    pairs(3).write_parquet(shard)
    with pytest.raises(StoreError, match="has 3 rows, its marker says 4"):
        read_dataset(tmp_path)
    shard.unlink()
    shard.mkdir()
    with pytest.raises(StoreError, match="is gone"):
        read_dataset(tmp_path)


def test_a_chat_with_calls_is_json_to_datasets(tmp_path: Path) -> None:
    chat = [said("user", "[x]"), {**said("assistant", ""), "tool_calls": [{"id": "c"}]}, said("assistant", "y")]
    rows = pl.DataFrame([{"id": "a", "messages": [json.dumps(one) for one in chat]}])
    folder = tmp_path / "exp[1]"
    write_dataset(folder, Dataset("t", "i", {"sft": Table.of(rows, "conversations", "")}), "card")
    assert read_dataset(folder).tables["sft"].rows.equals(rows)
    from datasets import load_dataset

    file = str(tmp_path / "x.parquet")
    (folder / "data" / "train-00000-of-00001.parquet").rename(file)
    loaded = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["messages"] == chat


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
