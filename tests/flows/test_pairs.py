"""The commands `pairs` and `score` on plain files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from synthmill.flows.cli import cli
from synthmill.flows.commands.pairs import pair_file
from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.pools import ColumnNames
from synthmill.tasks.cuts.cut import CutSettings
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.tasks.test_pools import TOY

COLUMNS = [
    "prompt_id",
    "prompt",
    "chosen",
    "rejected",
    "chosen_index",
    "rejected_index",
    "chosen_reward",
    "rejected_reward",
    "margin",
]


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def toy(path: Path) -> Path:
    """RIP's toy: per prompt, a rejected answer of the given reward and length, and a chosen one above it."""
    made = [
        {"prompt_id": f"p{n}", "prompt": f"P{n}?", "answers": ["best", "x" * length], "rewards": [reward + gap, reward]}
        for n, (reward, length, gap) in enumerate(TOY)
    ]
    write_jsonl(path, made)
    return path


def cut(source: Path, out: Path, rule: str, *, names: ColumnNames | None = None, **given: Any) -> list[dict[str, Any]]:
    more = {
        name: given.pop(name)
        for name in ("save_thresholds", "explain", "as_object", "leave_out", "length_control")
        if name in given
    }
    settings = CutSettings.model_validate({"rule": rule, **given})
    pair_file(str(source), out, settings, names or ColumnNames(), **more)
    return rows(out)


def test_rip_from_the_command_line(tmp_path: Path) -> None:
    toy(tmp_path / "toy.jsonl")
    given = ["toy.jsonl", "--rule", "rip", "--out", "o.parquet", "--save-thresholds", "t.json", "--explain"]
    out, err = synthmill("pairs", *given, cwd=tmp_path)
    [row] = rows(tmp_path / "o.parquet")
    assert list(row) == [*COLUMNS, "rejected_length"]
    assert (row["prompt_id"], row["chosen_index"], row["rejected_index"], row["rejected_length"]) == ("p3", 0, 1, 2500)
    limits = json.loads((tmp_path / "t.json").read_text())
    assert (limits["rejected_reward"], limits["rejected_length"], limits["gap"]) == pytest.approx((0.125, 1950, 0.0425))
    assert "rejected_length >= 1950 characters" in out and "1 pairs of 8 (12.5%)" in err
    write_jsonl(tmp_path / "other.jsonl", [{**row, "answers": ["c", "y" * 2000], "rewards": [0.2, 0.19]}])
    again = ["other.jsonl", "--rule", "rip", "--out", "o.jsonl", "--thresholds", "t.json"]
    synthmill("pairs", *again, cwd=tmp_path)
    assert len(rows(tmp_path / "o.jsonl")) == 1
    out, _ = synthmill("pairs", *again, "--json", cwd=tmp_path)
    assert json.loads(out)["thresholds"]["gap"] == limits["gap"]
    _, err = synthmill("pairs", *again, "--gap-quantile", "none", cwd=tmp_path, expect=2)
    assert "expected one of: a preset" in err
    _, err = synthmill(
        "pairs", "other.jsonl", "--rule", "max-min", "--ddof", "1", "--out", "o.jsonl", cwd=tmp_path, expect=2
    )
    assert "ddof means nothing to max-min; it belongs to sweet-spot" in err


def test_limits_can_be_switched_off_and_given(tmp_path: Path) -> None:
    source, out = toy(tmp_path / "toy.jsonl"), tmp_path / "o.jsonl"
    off: dict[str, Any] = {"rejected_reward_quantile": None, "rejected_length_quantile": None, "gap_quantile": None}
    assert len(cut(source, out, "rip", **off)) == 8
    kept = cut(source, out, "rip", **{**off, "rejected_length_quantile": 0.5})
    assert [row["prompt_id"] for row in kept] == ["p1", "p3", "p5", "p6"]
    kept = cut(source, out, "rip", **{**off, "rejected_reward": 0.14})
    assert [row["prompt_id"] for row in kept] == ["p3", "p4", "p6"]
    assert (
        len(cut(source, out, "rip", rejected_reward_quantile=0.0, rejected_length_quantile=0.0, gap_quantile=1.0)) == 8
    )
    assert cut(source, out, "rip", preset="helpsteer2", length="characters")[0]["prompt_id"] == "p1"
    tokens = cut(source, out, "rip", length="tokens", **{**off, "rejected_length_quantile": 1.0})
    assert {row["rejected_length"] for row in tokens} == {1}
    saved = tmp_path / "t.json"
    cut(source, out, "rip", length="tokens", save_thresholds=saved)
    assert cut(source, out, "rip", thresholds=str(saved))[0]["rejected_length"] == 1  # in the file's own unit
    with pytest.raises(InputError, match="counts length in tokens; leave out --length"):
        cut(source, out, "rip", thresholds=str(saved), length="characters")
    with pytest.raises(InputError, match="--save-thresholds writes what --rule rip fitted"):
        cut(source, out, "max-min", save_thresholds=saved)
    saved.write_text('{"gap": "wide", "depth": 3}')
    with pytest.raises(InputError, match="no such limit"):
        cut(source, out, "rip", thresholds=str(saved))
    with pytest.raises(InputError, match="is the input, too"):
        cut(source, source, "max-min")


def test_sweet_spot_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    pools = [
        {
            "prompt_id": n,
            "prompt": "p",
            "answers": [f"{n} {m}" for m in range(100)],
            "rewards": draw.normal(size=100).tolist(),
        }
        for n in range(30)
    ]
    write_jsonl(tmp_path / "in.jsonl", pools)
    made = cut(tmp_path / "in.jsonl", tmp_path / "o.jsonl.gz.parquet", "sweet-spot", rejected="mu-2s", explain=True)
    assert list(made[0]) == [*COLUMNS, "mean", "std", "rejected_is_min"]
    for row, pool in zip(made, pools, strict=True):
        rewards = np.array(pool["rewards"])
        assert row["chosen_index"] == rewards.argmax()
        assert row["rejected_index"] == np.abs(rewards - (rewards.mean() - 2 * rewards.std())).argmin()
        assert row["chosen"] == f"{pool['prompt_id']} {row['chosen_index']}"
    said = capsys.readouterr()
    assert "mean reward of the seven points" in said.out and "is the minimum itself for" in said.out
    assert "30 pairs from 30 prompts" in said.err


def test_a_file_without_any_pair_has_its_columns(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "p", "answers": ["a"], "rewards": [1]}])
    for rule in ("max-min", "rip", "random-pairs"):
        assert cut(tmp_path / "in.jsonl", tmp_path / "o.parquet", rule) == []
        assert pl.read_parquet(tmp_path / "o.parquet").columns[: len(COLUMNS)] == COLUMNS


def test_no_limits_are_saved_that_were_fitted_on_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "p", "answers": ["a"], "rewards": [1]}])
    with pytest.raises(InputError, match="no limits could be fitted"):
        cut(tmp_path / "in.jsonl", tmp_path / "o.jsonl", "rip", save_thresholds=tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


def test_guards_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    null = "This very answer stands under each and every prompt that was ever asked of the model in this file, always."
    pools = [
        {
            "prompt_id": f"p{n}",
            "prompt": f"Question {n}?",
            "answers": [null, f"a{n}", f"an answer to {n} that is longer than the other"],
            "rewards": [9, 1, 2],
        }
        for n in range(4)
    ]
    write_jsonl(tmp_path / "in.jsonl", pools)
    assert {row["chosen_index"] for row in cut(tmp_path / "in.jsonl", tmp_path / "o.jsonl", "max-min")} == {0}
    made = cut(tmp_path / "in.jsonl", tmp_path / "o.jsonl", "max-min", leave_out=("constant",), explain=True)
    assert {(row["chosen_index"], row["rejected_index"]) for row in made} == {(2, 1)}
    assert "4 answers are flagged constant" in capsys.readouterr().out
    (tmp_path / "bad.jsonl").write_text((tmp_path / "in.jsonl").read_text() + "{\n")
    cut(tmp_path / "bad.jsonl", tmp_path / "o.jsonl", "max-min", leave_out=("constant",))
    assert "1 rows could not be read" in capsys.readouterr().err
    controlled = cut(tmp_path / "in.jsonl", tmp_path / "o.jsonl", "max-min", length_control=True, explain=True)
    assert controlled[0]["chosen_reward"] != 9 and "length control" in capsys.readouterr().out


def test_score_then_pairs(tmp_path: Path, server: ChatServer) -> None:
    answers = [
        {"prompt_id": f"p{n}", "prompt": f"Why {n}?", "answer": f"because {m} " * (m + 1), "row": 10 * n + m}
        for n in range(5)
        for m in range(4)
    ]
    answers[3], answers[7] = answers[7], answers[3]  # scattered
    write_jsonl(tmp_path / "in.jsonl", [*answers, {"prompt": 5}])
    judge = ["--scorer", "judge", "--evaluations", 2, "--engine", server.spec, "--out", "judged.jsonl"]
    _, err = synthmill("score", "in.jsonl", *judge, cwd=tmp_path)
    assert "20 answers scored, 21 rows -> judged.jsonl" in err and "could not be read" in err
    *judged, bad = rows(tmp_path / "judged.jsonl")
    assert bad == {"prompt": 5, "judge": None, "reward": None}
    assert [row["row"] for row in judged] == [row["row"] for row in answers]
    assert all(row["judge"] == row["reward"] is not None for row in judged)
    asked = server.stats()["total"]
    synthmill("score", "in.jsonl", *judge, cwd=tmp_path)
    assert server.stats()["total"] == asked
    (tmp_path / "mine.py").write_text("def size(prompt, answers, reference):\n    return [len(a) for a in answers]\n")
    given = ["--scorer", "python:mine.py:size", "--name", "size", "--out", "both.parquet"]
    synthmill("score", "judged.jsonl", *given, cwd=tmp_path)
    both = rows(tmp_path / "both.parquet")
    assert both.pop()["size"] is None
    assert [row["size"] for row in both] == [len(row["answer"]) for row in both]
    assert [row["reward"] for row in both] == [row["judge"] for row in both]
    synthmill("pairs", "both.parquet", "--rule", "max-min", "--reward-column", "size", "--out", "o.jsonl", cwd=tmp_path)
    made = rows(tmp_path / "o.jsonl")
    assert [row["chosen_reward"] for row in made] == [len("because 3 " * 4)] * 5
    mixed = ["--scorer", "helpsteer2", "--weight", "size=0.5", "--weight", "judge=-1", "--out", "mix.parquet"]
    synthmill("score", "both.parquet", *mixed, cwd=tmp_path)
    for row in rows(tmp_path / "mix.parquet")[:-1]:
        assert row["helpsteer2"] == pytest.approx(0.5 * row["size"] - row["judge"])
    for arguments, fault in (
        (["in.jsonl", "--scorer", "judge", "--out", "x.jsonl"], "asks a model; name it with --engine"),
        (
            ["in.jsonl", "--scorer", "cdr", "--engine", "openai:m@http://127.0.0.1:9/v1", "--out", "x.jsonl"],
            "compares the models of strong and weak, and score has one --engine",
        ),
        (["in.jsonl", "--scorer", "r3", "--engine", server.spec, "--out", "x.jsonl"], "has no effect"),
        (
            ["both.parquet", "--scorer", "python:mine.py:size", "--name", "size", "--out", "x.jsonl"],
            "a column 'size' already",
        ),
        (["in.jsonl", "--scorer", "helpsteer2", "--out", "x.jsonl"], "has no column 'helpfulness'"),
    ):
        _, err = synthmill("score", *arguments, cwd=tmp_path, expect=2)
        assert fault in err


def test_scores_stand_on_the_rows_they_were_given_for(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def size(prompt, answers, reference):\n    return [len(a) for a in answers]\n")
    given = ["--scorer", "python:mine.py:size", "--out", "o.jsonl"]
    answers = ["1", ["22"], "333", {"no": 1}, "4444"]
    write_jsonl(tmp_path / "long.jsonl", [{"prompt": "p", "answer": answer} for answer in answers])
    synthmill("score", "long.jsonl", *given, cwd=tmp_path)
    assert [row["size"] for row in rows(tmp_path / "o.jsonl")] == [1, None, 3, None, 4]
    wide = [["1", "22"], ["55555", "4444"], 5]
    write_jsonl(
        tmp_path / "wide.jsonl",
        [{"prompt_id": [1] if n == 2 else "a", "prompt": "p", "answers": one} for n, one in enumerate(wide)],
    )
    _, err = synthmill("score", "wide.jsonl", *given, cwd=tmp_path)
    assert [row["size"] for row in rows(tmp_path / "o.jsonl")] == [[1, 2], [None, None], []]
    assert "2 answers scored" in err and "duplicate_id" in err
    parquet = [*given[:2], "--name", "rewards", "--out", "o.parquet"]
    _, err = synthmill("score", "wide.jsonl", *parquet, cwd=tmp_path, expect=2)
    assert "do not fit one table" in err
    write_jsonl(tmp_path / "wide.jsonl", [{"prompt": "p", "answers": ["1", "22"]}])
    synthmill("score", "wide.jsonl", *parquet, cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "o.parquet").columns.count("rewards") == 1
    (tmp_path / "bytes.csv").write_bytes(b"prompt,answer\np,one\np,\xff\n")
    synthmill("score", "bytes.csv", *given, cwd=tmp_path)
    assert [row["size"] for row in rows(tmp_path / "o.jsonl")] == [3, None]


CHATS = [
    {
        "prompt_id": "turns",
        "prompt": [
            {"role": "user", "content": "What is a weir?"},
            {"role": "gpt", "content": "A low dam."},
            {"role": "user", "content": "Who builds them?"},
        ],
        "answers": ["Engineers.", "Nobody."],
        "rewards": [0.9, 0.1],
    },
    {
        "prompt_id": "one",
        "prompt": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "What is a lock?"}],
        "answers": ["A chamber.", "A thing."],
        "rewards": [0.8, 0.3],
    },
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_prompts_of_messages_make_conversations_that_trl_reads(tmp_path: Path, ending: str) -> None:
    from trl import is_conversational

    source = tmp_path / f"in.{ending}"
    if ending == "parquet":
        pl.DataFrame(CHATS).write_parquet(source)
    else:
        write_jsonl(source, CHATS)
    off: dict[str, Any] = dict.fromkeys(("rejected_reward_quantile", "rejected_length_quantile", "gap_quantile"))
    for rule, settings in (("max-min", {}), ("rip", off)):
        for out in ("o.jsonl", "o.parquet"):
            made = cut(source, tmp_path / out, rule, **settings)
            assert [[message["role"] for message in row["prompt"]] for row in made] == [
                ["user", "assistant", "user"],
                ["system", "user"],
            ]
            assert [row["chosen"][0]["content"] for row in made] == ["Engineers.", "A chamber."]
            assert all(
                is_conversational({side: row[side]}) for row in made for side in ("prompt", "chosen", "rejected")
            )
            assert "system" not in made[0] and "messages" not in made[0]
    (tmp_path / "mine.py").write_text(
        "def size(prompt, answers, reference):\n    return [len(prompt)] * len(answers)\n"
    )
    synthmill("score", source, "--scorer", "python:mine.py:size", "--out", "s.jsonl", cwd=tmp_path)
    whole = "User: What is a weir?\n\nAssistant: A low dam.\n\nUser: Who builds them?"
    assert [row["size"][0] for row in rows(tmp_path / "s.jsonl")] == [len(whole), len("What is a lock?")]
    assert rows(tmp_path / "s.jsonl")[0]["prompt"] == CHATS[0]["prompt"]


def test_answers_of_messages_and_ids_that_repeat_are_counted(tmp_path: Path) -> None:
    said = [[{"role": "assistant", "content": text}] for text in "ab"]
    given = [
        {"id": 7, "prompt": "p", "answers": ["a", "b"], "rewards": [1, 2]},
        {"id": "7", "prompt": "q", "answers": ["c", "d"], "rewards": [3, 0]},
        {"id": "chat", "prompt": "r", "answers": said, "rewards": [1, 2]},
    ]
    write_jsonl(tmp_path / "in.jsonl", given)
    out, err = synthmill("pairs", "in.jsonl", "--rule", "max-min", "--out", "o.jsonl", "--json", cwd=tmp_path)
    assert json.loads(out)["unreadable"] == {"duplicate_id": 1, "answer_not_text": 1}
    assert "2 rows could not be read" in err
    assert [(row["prompt_id"], row["prompt"]) for row in rows(tmp_path / "o.jsonl")] == [("7", "p")]
    write_jsonl(tmp_path / "in.jsonl", given[2:])
    _, err = synthmill("pairs", "in.jsonl", "--rule", "max-min", "--out", "none.jsonl", cwd=tmp_path, expect=2)
    assert "none of its rows can be used (1 answer_not_text)" in err and not (tmp_path / "none.jsonl").exists()


def test_wide_rows_keep_their_shape(tmp_path: Path) -> None:
    wide = [{"prompt_id": "a", "prompt": "A?", "answers": ["x", "yy"], "more": {"deep": [1]}}]
    (tmp_path / "mine.py").write_text("def size(prompt, answers, reference):\n    return [len(a) for a in answers]\n")
    write_jsonl(tmp_path / "in.jsonl", wide)
    given = ["in.jsonl", "--scorer", "python:mine.py:size", "--out"]
    for out in ("o.jsonl", "o.parquet"):
        synthmill("score", *given, out, cwd=tmp_path)
        assert rows(tmp_path / out) == [{**wide[0], "size": [1.0, 2.0], "rewards": [1.0, 2.0]}]


def test_help_names_every_rule_and_scorer() -> None:
    for command, words in (("pairs", ("sweet-spot", "scalable", "tournament")), ("score", ("pairwise", "helpsteer2"))):
        options = cli.commands[command].get_help(__import__("click").Context(cli.commands[command]))
        assert all(word in options for word in words)


def test_the_first_batch_may_have_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmill.storage.plain_files.pools.BATCH_ROWS", 2)
    rewards = [[1, 1], [2, 2], [1, 2], [1, 3], [1, 1]]
    pools = [{"prompt": f"p{n}", "system": "s", "answers": ["a", "b"], "rewards": one} for n, one in enumerate(rewards)]
    write_jsonl(tmp_path / "in.jsonl", pools)
    for rule in ("max-min", "rip"):
        made = cut(
            tmp_path / "in.jsonl", tmp_path / "o.parquet", rule, **({"gap_quantile": 1.0} if rule == "rip" else {})
        )
        assert {row["system"] for row in made} == {"s"} and made[-1]["prompt"] in ("p2", "p3")
