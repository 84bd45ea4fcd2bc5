"""The flows `preferences` and `self-rip`, whole, against the local chat server; and TRL on what they make."""

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import yaml

from synthmill.flows.methods.preferences import plan as plan_preferences
from synthmill.flows.methods.preferences.settings import PreferencesSettings, SelfRipSettings
from synthmill.flows.methods.self_rip import plan as plan_self_rip
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.cuts.rules.scalable import Scalable
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.tiny import make_tiny_model, one_step

PROMPTS = 12


def rows_of(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "data" / name / "train-*.parquet")


def dataset_in(store: Path, flow: str) -> Path:
    [found] = (store / "datasets").glob(f"{flow}-*")
    return found


@pytest.fixture
def config(tmp_path: Path, server: ChatServer) -> Path:
    prompts = [{"id": f"q{n}", "prompt": f"Explain number {n} in your own words"} for n in range(PROMPTS)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    settings = {
        "source": "prompts.jsonl",
        "engines": {
            "teacher": server.spec,
            "small": {"spec": server.spec, "options": {"presence_penalty": 0.5}},
        },
        "policies": ["student", "small"],
        "answers": {"count": 5},
        "scorers": ["r3", {"spec": "judge", "evaluations": 2}, "expected"],
        "reward": "judge",
        "cuts": ["rip", "sweet-spot", {"spec": "random-pairs", "count": 2}],
        "rows_per_part": 5,
        "workers": 0,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


def test_the_whole_flow_and_again_and_self_rip(config: Path, tmp_path: Path, server: ChatServer) -> None:
    out, _ = synthmill("run", "preferences", "--config", config, cwd=tmp_path)
    assert "scorer" in out and "rip: 12 prompts, 120 answers" in out
    folder = dataset_in(tmp_path / "store", "preferences")
    pools = rows_of(folder, "pools")
    assert pools["answers"].list.len().to_list() == [10] * PROMPTS
    assert set(pools.columns) >= {"r3", "judge", "expected"}
    spot, some = rows_of(folder, "dpo_sweet-spot"), rows_of(folder, "dpo_random-pairs")
    assert spot.height == PROMPTS and PROMPTS < some.height <= 2 * PROMPTS
    assert spot["chosen_policy"].is_in(["student", "small"]).all()
    report = orjson.loads((folder / "report.json").read_bytes())
    kept = report["cuts"][0]
    assert kept["kept"] == rows_of(folder, "dpo_rip").height == rows_of(folder, "prompts_rip").height > 0
    agreed = {(row["one"], row["other"]) for row in report["agreement"]}
    assert agreed == {("r3", "judge"), ("r3", "expected"), ("judge", "expected")}
    card = (folder / "README.md").read_text()
    assert "How far the scorers agree" in card and "Who wins" in card
    limits = orjson.loads((folder / "thresholds-rip.json").read_bytes())
    assert limits["pairs"] == PROMPTS and limits["gap"] == kept["thresholds"]["gap"]

    train_one_step(folder, tmp_path)
    asked = server.stats()["total"]
    _, err = synthmill("run", "preferences", "--config", config, cwd=tmp_path)
    assert "nothing to do" in err and server.stats()["total"] == asked
    synthmill("run", "preferences", "--config", config, "--set", "answers.count=6", cwd=tmp_path)
    new = server.stats()["total"] - asked
    assert new == PROMPTS * 2 * (1 + 2 + 1)  # one more answer of each policy, and its scores

    wide = ["pairs", folder / "data/pools/train-00000-of-00001.parquet", "--rule", "sweet-spot", "--out", "again.jsonl"]
    synthmill(*wide, "--reward-column", "judge", cwd=tmp_path)
    again = [orjson.loads(line) for line in (tmp_path / "again.jsonl").read_bytes().splitlines()]
    assert [row["chosen"] for row in again] == [row[0]["content"] for row in spot["chosen"].to_list()]

    settings = {
        "source": str(folder / "data/prompts_rip/train-00000-of-00001.parquet"),
        "thresholds": str(folder / "thresholds-rip.json"),
        "engines": {"teacher": server.spec},
        "prompts": {"count": 10, "shots": 3, "overlap": 1.0},
        "answers": {"count": 4},
        "scorers": [{"spec": "judge", "evaluations": 2}],
        "workers": 0,
    }
    (tmp_path / "self.yaml").write_text(yaml.safe_dump(settings))
    synthmill("run", "self-rip", "--config", "self.yaml", "--store", "store2", cwd=tmp_path)
    made = dataset_in(tmp_path / "store2", "self-rip")
    fresh = rows_of(made, "pools")
    assert 0 < fresh.height <= 10 and fresh["prompt"].str.starts_with("Tell me why").all()
    applied = orjson.loads((made / "report.json").read_bytes())["cuts"][0]["thresholds"]
    assert [applied[name] for name in ("rejected_reward", "rejected_length", "gap")] == [
        limits[name] for name in ("rejected_reward", "rejected_length", "gap")
    ]


def test_answers_that_a_filter_broke_off_are_counted_and_in_no_pair(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [{"id": f"q{n}", "prompt": f"Explain number {n}"} for n in range(6)])
    server.set(fail_every=3, fail_how="filtered")
    engine = f"engines.teacher={server.spec}"
    run = ["--set", "source=prompts.jsonl", "--set", engine, "--set", "answers.count=5", "--set", "workers=0"]
    synthmill("run", "preferences", *run, "--set", "cuts=[{spec: top-k, count: 5}]", cwd=tmp_path)
    folder = dataset_in(tmp_path / "store", "preferences")
    assert "0 were cut there, and 10 were broken off by a content filter" in (folder / "README.md").read_text()
    ends = {
        (row["prompt_id"], text): end
        for row in rows_of(folder, "pools").to_dicts()
        for text, end in zip(row["answers"], row["finish_reasons"], strict=True)
    }
    assert list(ends.values()).count("content_filter") == 10
    pairs = rows_of(folder, "dpo_top-k").to_dicts()
    paired = [ends[row["parent_id"], row[side][0]["content"]] for row in pairs for side in ("chosen", "rejected")]
    assert pairs and set(paired) == {"stop"}
    pools = folder / "data/pools/train-00000-of-00001.parquet"
    _, err = synthmill("pairs", pools, "--rule", "max-min", "--reward-column", "r3", "--out", "o.jsonl", cwd=tmp_path)
    assert "10 answers were broken off by a content filter and are in no pair" in err


def test_conversations_of_several_turns_are_refused_by_name(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    rows = [{"id": n, "prompt": turns[:n], "answers": ["a", "b b"], "rewards": [n, 0]} for n in (1, 3)]
    settings = {"source": str(write_jsonl(tmp_path / "in.jsonl", rows)), "policies": [], "store": str(tmp_path / "s")}
    source = plan_preferences(read_settings(PreferencesSettings, None, settings)).source
    assert source.look() == (1, f"{tmp_path}/in.jsonl: 1 pools, 2 answers, 1 rows cannot be read")
    assert dict(source.ingest("run").dropped) == {"several_turns": 1}


def test_rows_that_bring_answers_and_rewards(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": f"p{n}", "prompt": f"P{n}", "answer": f"{m} {'x' * m}", "reward": (m * 7 + n) % 5, "helpful": m}
        for n in range(6)
        for m in range(5)
    ]
    write_jsonl(tmp_path / "pools.jsonl", rows)
    given: list[Any] = ["--set", "source=pools.jsonl", "--set", "policies=[]", "--set", "workers=0"]
    weights = "{kind: weighted, name: mix, weights: {helpful: 2, reward: 0.5}}"
    given += ["--set", f"scorers=[{weights}]", "--set", "reward=reward", "--set", "cuts=scalable"]
    synthmill("run", "preferences", *given, cwd=tmp_path)
    folder = dataset_in(tmp_path / "store", "preferences")
    found = rows_of(folder, "dpo_scalable")
    assert found.height == 6 and found["chosen_reward"].to_list() == [4.0] * 6
    pools = rows_of(folder, "pools")
    for mix, helpful, reward in pools.select("mix", "helpful", "reward").iter_rows():
        assert mix == [2 * one + 0.5 * other for one, other in zip(helpful, reward, strict=True)]
    bare = {"source": str(tmp_path / "pools.jsonl"), "policies": [], "store": str(tmp_path / "s")}
    assert read_settings(PreferencesSettings, None, bare).chosen_reward == "reward"


def train_one_step(folder: Path, place: Path) -> None:
    """TRL's DPOTrainer takes a rule's pairs as they are."""
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = make_tiny_model(place / "model")
    trainer = DPOTrainer(
        model=str(model),
        args=DPOConfig(**one_step(place)),
        train_dataset=load_dataset(str(folder), "dpo_sweet-spot", split="train"),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    assert trainer.state.global_step == 1


def test_steps_of_one_stage_are_told_apart(tmp_path: Path, server: ChatServer) -> None:
    """Two judges are one stage twice: in the record, card, report, spending and budget each has its own place."""
    prompts = [{"id": f"q{n}", "prompt": f"Explain number {n} in your own words"} for n in range(4)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    settings = {
        "source": "prompts.jsonl",
        "engines": {"teacher": server.spec},
        "answers": {"count": 3},
        "scorers": [{"spec": "judge", "evaluations": 1}, {"spec": "judge", "name": "strict", "evaluations": 2}],
        "reward": "judge",
        "cuts": ["max-min"],
        "dedup": {"layers": ["exact"]},
        "workers": 0,
        "budget": {"stages": {"direct_scores-strict": {"requests": 5}}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    _, err = synthmill("run", "preferences", "--config", "run.yaml", cwd=tmp_path, expect=3)
    assert "direct_scores-strict's budget is spent: 5 of 5 requests" in err
    out, _ = synthmill("run", "preferences", "--config", "run.yaml", "--set", "budget.stages={}", cwd=tmp_path)
    assert "direct_scores-judge" in out and "direct_scores-strict" in out
    store = tmp_path / "store"
    last = orjson.loads(max((store / "runs").glob("*.json")).read_bytes())
    steps = {stage["step"]: stage for stage in last["stages"]}
    assert len(steps) == len(last["stages"])
    judge, strict = steps["direct_scores-judge"], steps["direct_scores-strict"]
    assert judge["artifact"] != strict["artifact"]
    spent = "SELECT step, sum(calls)::INT FROM spend WHERE stage = 'direct_scores' GROUP BY ALL ORDER BY ALL"
    out, _ = synthmill("sql", spent, cwd=tmp_path)
    assert [line.split() for line in out.splitlines() if "direct_scores-" in line] == [
        ["direct_scores-judge", "12"],
        ["direct_scores-strict", "12"],  # half of its 24 are the other's, and not asked for twice
    ]
    folder = dataset_in(store, "preferences")
    for page in ("README.md", "report.html"):
        text = (folder / page).read_text()
        assert "direct_scores-judge" in text and "direct_scores-strict" in text
    keys = orjson.loads((folder / "synthmill.json").read_bytes())["artifacts"]
    assert keys["direct_scores-judge"] != keys["direct_scores-strict"]


def test_wrong_settings(config: Path, tmp_path: Path, server: ChatServer) -> None:
    def plan(**overrides: Any) -> None:
        given = {"store": str(tmp_path / "s"), "source": str(tmp_path / "prompts.jsonl"), **overrides}
        plan_preferences(read_settings(PreferencesSettings, config, given))

    for overrides, fault in (
        ({"engines": {"teacher": server.spec, "small": server.spec}}, "are both openai:local-model"),
        ({"engines.tutor": server.spec}, "no role is called tutor"),
        ({"reward": "rm"}, "the reward is rm, but no scorer is called so"),
        ({"scorers": ["r3", "r3"]}, "two scorers are called r3"),
        ({"cuts": []}, "there is no cut"),
        ({"cuts": ["rip", {"spec": "rip", "gap_quantile": 0.1}]}, "two cuts are called rip"),
        ({"cuts": [{"spec": "rip", "thresholds": "gone.json"}]}, r"gone.json is not there"),
        ({"policies": [], "scorers": [], "engines": {}, "reward": ""}, "has no column 'answers' or 'answer'"),
        ({"leave_out": ["rude"]}, "leave_out"),
        ({"scorers": ["helpsteer2", "r3"], "reward": ""}, "weighs coherence, .* which no scorer before it gives"),
        ({"scorers": [{"spec": "http://127.0.0.1:9/x", "api_key_env": "NO_KEY"}], "reward": ""}, "NO_KEY holds no key"),
    ):
        with pytest.raises(InputError, match=fault):
            plan(**overrides)
    base = {"source": str(tmp_path / "prompts.jsonl"), "store": str(tmp_path / "s")}
    (tmp_path / "t.json").write_text('{"gap": 2, "length": "tokens"}')
    settings = read_settings(
        SelfRipSettings, None, {**base, "thresholds": str(tmp_path / "t.json"), "cuts": "scalable"}
    )
    planned = plan_self_rip(settings).settings
    assert planned.cuts == (Rip(thresholds=str(tmp_path / "t.json"), length="tokens"), Scalable())
    again = plan_self_rip(SelfRipSettings.model_validate(planned.model_dump(mode="json"))).settings  # as Prefect does
    assert again.cuts == planned.cuts
    with pytest.raises(InputError, match="thresholds"):
        plan_self_rip(read_settings(SelfRipSettings, None, base))
    with pytest.raises(InputError, match="thresholds"):
        plan_self_rip(read_settings(SelfRipSettings, None, {**base, "thresholds": ""}))
    with pytest.raises(InputError, match=r"gone\.json is not there"):
        plan_self_rip(read_settings(SelfRipSettings, None, {**base, "thresholds": "gone.json"}))
