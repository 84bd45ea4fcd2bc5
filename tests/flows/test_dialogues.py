"""The flow `dialogues`, whole, against the local chat server."""

import json
from pathlib import Path

import duckdb
import httpx
import polars as pl
import pytest
import yaml

from synthmill.flows.methods.dialogues import plan as plan_dialogues
from synthmill.schemas.dialogue_settings import DialogueSettings
from synthmill.schemas.rows import Pair, arrow_schema
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.published.rows import preference_rows
from synthmill.tasks.dedup.duplicates import UniquePairs
from tests.command import ROOT, prefect_url, synthmill
from tests.conftest import ChatServer

EXAMPLES = ROOT / "examples" / "dialogues"


@pytest.fixture
def config(tmp_path: Path, server: ChatServer) -> Path:
    settings = {
        "applications": [str(EXAMPLES / "shell.yaml"), str(EXAMPLES / "orders.yaml")],
        "engines": {"teacher": server.spec, "student": {"spec": server.spec, "concurrency": 8}},
        "inputs": {"count": 8, "per_call": 10, "threshold": 1},
        "dialogues": {"branches": 2, "temperature": 0.7, "max_turns": 3, "environment": "both"},
        "cut": {"min_format_adherence": 0},
        "rows_per_part": 6,
        "workers": 1,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


def rows_of(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "data" / name / "*.parquet")


@pytest.mark.ray
@pytest.mark.prefect
def test_two_applications_to_training_rows_then_nothing_to_do(config: Path, tmp_path: Path, server: ChatServer) -> None:
    run = ("run", "dialogues", "--config", config)
    out, _ = synthmill(*run, cwd=tmp_path)
    asked = server.stats()["total"]
    assert "simulated against real replies" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    newest_reports = {"artifacts": {"key": {"any_": ["report"]}}, "sort": "CREATED_DESC"}  # the server lists 200 of all
    reports = httpx.post(f"{prefect_url()}/artifacts/filter", json=newest_reports, timeout=30).json()
    assert any((folder / "report.html").as_uri() in report["data"] for report in reports)
    dialogues = rows_of(folder, "dialogues")
    assert dialogues.height == 2 * 8 * 2
    assert {"context", "pseudo_input", "teacher_output_single", "student_output_single", "reason"} <= set(
        dialogues.columns
    )
    assert dialogues["teacher_output_conv"][0][0]["role"] == "assistant"
    assert dialogues["context_id"].n_unique() == 2
    sft, generation = rows_of(folder, "sft"), rows_of(folder, "prompt_generation")
    assert sft.height == dialogues["kept"].sum()
    assert generation.height == 16
    assert all(messages[-1]["content"].startswith("### Context") for messages in generation["messages"])
    weights = pl.concat([frame.select("application_name", "weight") for frame in (sft, generation)])
    ratios = {"shell": 0.7, "orders": 0.5}
    by_input = dialogues.group_by("context", "pseudo_input").agg(pl.col("kept").any())
    told = sum(ratios["shell" if "Linux" in row["context"] else "orders"] * row["kept"] for row in by_input.to_dicts())
    untold = sum(1 - ratios[name] for name in generation["application_name"])
    assert weights["weight"].sum() == pytest.approx(told + untold)
    tools = [row["tools"] for row in sft.iter_rows(named=True) if row["application_name"] == "orders"]
    assert all(json.loads(one)[0]["function"]["name"] == "find_order" for one in tools)
    assert rows_of(folder, "preference")["chosen_reward"].null_count() == 0

    from datasets import load_dataset

    loaded = load_dataset(str(folder), "sft", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == sft.height
    catalog = duckdb.connect(str(tmp_path / "store" / "catalog.duckdb"), read_only=True)
    walk = (
        "SELECT count(*) FROM training_rows t JOIN dialogue_signs d ON t.parent_id = d.id "
        "JOIN openings o ON d.parent_id = o.id JOIN reasons r ON o.parent_id = r.id "
        "JOIN outputs u ON r.parent_id = u.id JOIN pseudo_inputs p ON u.parent_id = p.id "
        "JOIN drafts a ON p.parent_id = a.id JOIN applications x ON a.parent_id = x.id"
    )
    assert catalog.sql(walk).fetchall() == [(sft.height + generation.height,)]
    catalog.close()
    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err
    assert server.stats()["total"] == asked

    # four more inputs cost only theirs: their drafts were drawn before
    synthmill(*run, "--set", "inputs.count=10", "--workers", 0, cwd=tmp_path)
    again = server.stats()
    assert again["repeated"] == 0
    more = again["total"] - asked
    assert 0 < more < asked / 2


def test_the_paper_preset_ends_with_the_environment(config: Path, tmp_path: Path) -> None:
    simulated = ("--set", "dialogues.environment=simulated", "--set", "inputs.count=2", "--workers", 0)
    synthmill("run", "dialogues", "--config", config, "--set", "preset=paper", *simulated, cwd=tmp_path)
    out, _ = synthmill(
        "sql",
        "SELECT DISTINCT turns[-1].role = 'assistant' AS by_agent, len(turns)::INT AS turns, facts FROM dialogues",
        "--csv",
        cwd=tmp_path,
    )
    assert out.split() == ["by_agent,turns,facts", "False,6,"]


def test_a_prompt_that_does_not_fit_says_so_with_both_numbers(config: Path, tmp_path: Path, server: ChatServer) -> None:
    long = tmp_path / "long.yaml"
    long.write_text(yaml.safe_dump({"prompt": ["word " * 6000, "fine", ""], "environment": {"name": "x"}}))
    alone = ("--set", f"applications={long}", "--set", "dialogues.environment=simulated", "--workers", 0)
    _, err = synthmill("run", "dialogues", "--config", config, *alone, cwd=tmp_path, expect=1)
    assert "1 context_overflow" in err
    assert "maximum context length is 20000 characters, your messages have 3" in err


def test_a_configuration_without_rows_is_left_out(config: Path, tmp_path: Path) -> None:
    sets = ("--set", "cut.min_agent_turns=99", "--set", "inputs.count=2", "--workers", 0)
    out, _ = synthmill("run", "dialogues", "--config", config, *sets, cwd=tmp_path)
    assert "kept: 0 of 8; cut by 8 agent_turns" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    from datasets import get_dataset_config_names, load_dataset

    assert get_dataset_config_names(str(folder)) == ["prompt_generation", "preference", "dialogues"]
    assert len(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))) == 4


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["dialogues.temperature=0"], "branches is 2 at temperature 0"),
        (["applications=nowhere.yaml"], "nowhere.yaml is not there"),
        (["applications=[]"], "applications"),
        (["dialogues.nonsense=1"], "no such setting"),
        (["tokenizer=/nowhere"], "there is no tokenizer '/nowhere'"),
        (["preset=paper", "dialogues.judge=true"], "the preset paper has no dialogues.environment, dialogues.judge"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_made(
    config: Path, tmp_path: Path, sets: list[str], said: str
) -> None:
    given = [word for one in sets for word in ("--set", one)]
    _, err = synthmill("run", "dialogues", "--config", config, *given, cwd=tmp_path, expect=2)
    assert said in err
    assert not (tmp_path / "store").exists()


def test_pairs_may_be_none_but_training_rows_must_be(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = plan_dialogues(read_settings(DialogueSettings, config, {}))
    trunk = [step.stage.name for step in planned.stages if step.key in planned.on_trunk()]
    assert trunk[:3] == ["drafts", "pseudo_inputs", "outputs"]
    assert trunk[-1] == "training_rows"
    assert {step.stage.name for step in planned.stages} - set(trunk) == {
        "answer_pools",
        "rewards",
        "teacher_pairs",
        "unique_pairs",
    }
    none = pl.DataFrame(arrow_schema(Pair).empty_table())
    marked, _ = UniquePairs(columns=("system", "prompt"), layers=("exact",)).apply(none, tmp_path)
    assert preference_rows(marked).height == 0


def test_the_dry_run_shows_both_applications(config: Path, tmp_path: Path, server: ChatServer) -> None:
    out, _ = synthmill("run", "dialogues", "--config", config, "--dry-run", cwd=tmp_path)
    assert "shell: 7 turns" in out
    assert "orders: 9 turns" in out
    assert server.stats()["total"] == 0
