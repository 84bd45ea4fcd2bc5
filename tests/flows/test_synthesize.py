"""The main job, whole, under Prefect and Ray, against the local chat server."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml

from synthmill.flows import deployed
from synthmill.flows.commands.serve import write_deployments
from synthmill.flows.making.make import run_plan
from synthmill.flows.methods import identifier, methods
from synthmill.flows.methods.synthesize import plan as plan_synthesize
from synthmill.schemas.settings_files import read_settings
from synthmill.schemas.synthesize_settings import SynthesizeSettings
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

pytestmark = [pytest.mark.prefect, pytest.mark.ray]


@pytest.fixture
def config(tmp_path: Path, server: ChatServer) -> Path:
    write_jsonl(
        tmp_path / "in.jsonl", [*prompts(12), {"id": "again", "prompt": "QUESTION 3:  why do birds draw circles?"}]
    )
    settings = {
        "source": "in.jsonl",
        "engines": {"teacher": server.spec, "student": {"spec": server.spec, "concurrency": 16}},
        "answers": {"count": 4},
        "dedup": {"layers": ["exact"]},  # the prompts differ by a number only
        "rows_per_part": 5,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


@pytest.mark.usefixtures("own_prefect")
def test_the_whole_job_then_nothing_to_do_then_only_what_is_new(
    config: Path, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ("run", "synthesize", "--config", config)
    out, _ = synthmill(*run, cwd=tmp_path, OPENAI_API_KEY="sk-planted-secret-42")
    assert server.stats()["total"] == 13 * (1 + 1 + 4)
    assert "dataset" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    from datasets import load_dataset

    rows = load_dataset("parquet", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 12  # the thirteenth prompt is the fourth, in other letters
    assert [message["role"] for message in rows[0]["prompt"]] == ["system", "user"]
    assert rows[0]["chosen"][0]["role"] == "assistant"
    assert rows[0]["chosen_reward"] > rows[0]["rejected_reward"]
    assert "13 |" in (folder / "SUMMARY.md").read_text()

    catalog = duckdb.connect(str(tmp_path / "store" / "catalog.duckdb"), read_only=True)
    walk = (
        "SELECT count(*) FROM unique_pairs p JOIN rewards r ON p.parent_id = r.id "
        "JOIN variants n ON r.parent_id = n.id JOIN system_messages s ON n.parent_id = s.id "
        "JOIN preference_sets v ON s.parent_id = v.id JOIN instructions i ON v.parent_id = i.id"
    )
    assert catalog.sql(walk).fetchall() == [(13,)]  # every exported row leads back to its input
    assert catalog.sql("SELECT sum(calls)::INT FROM spend").fetchall() == [(78,)]
    catalog.close()

    written = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    written += [path for path in (tmp_path / "prefect").rglob("*") if path.is_file()]
    assert len(written) > 30
    assert not [path for path in written if b"sk-planted-secret-42" in path.read_bytes()]

    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err
    write_jsonl(tmp_path / "in.jsonl", prompts(15))
    synthmill(*run, "--workers", 0, cwd=tmp_path, apart=False)
    assert server.stats()["total"] == 78 + 3 * 6

    monkeypatch.chdir(tmp_path)  # a schedule's run, whose source has not grown
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
    record = run_plan(lambda: plan_synthesize(read_settings(SynthesizeSettings, config, {})))
    assert f"nothing new: run {record.id} made all of it" in capfd.readouterr().err
    assert record.status == "finished" and record.stages[0].rows == 15
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_preview_is_reused_by_the_full_run(config: Path, tmp_path: Path, server: ChatServer) -> None:
    run = ("run", "synthesize", "--config", config, "--workers", 0)
    out, _ = synthmill(*run, "--preview", 2, cwd=tmp_path)
    assert out.count("chosen (") == 2
    assert server.stats()["total"] == 2 * 6
    synthmill(*run, cwd=tmp_path)
    assert server.stats()["total"] == 13 * 6
    assert server.stats()["repeated"] == 0


def test_bad_rows_are_dropped_by_reason_and_a_run_without_rows_fails(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(
        tmp_path / "in.jsonl", [*prompts(3), {"id": "long", "prompt": "long " * 10_000}, {"id": "x", "prompt": None}]
    )
    settings = (
        "--set",
        "source=in.jsonl",
        "--set",
        f"engines.teacher={server.spec}",
        "--set",
        "answers.count=2",
        "--workers",
        0,
    )
    synthmill("run", "synthesize", *settings, cwd=tmp_path)
    out, _ = synthmill("sql", "SELECT stage, reason FROM drops ORDER BY stage", "--csv", cwd=tmp_path)
    assert out.split()[1:] == ["instructions,null_prompt", "preference_sets,context_overflow"]
    write_jsonl(tmp_path / "in.jsonl", [{"id": "long", "prompt": "long " * 10_000}])
    _, err = synthmill("run", "synthesize", *settings, cwd=tmp_path, expect=1)
    assert "every one of the 1 rows was dropped in preference_sets (1 context_overflow)" in err
    assert "Traceback" not in err


def test_the_flows_are_ordinary_prefect_deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jsonschema
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    monkeypatch.chdir(Path(__file__).parents[2])
    deployments = yaml.safe_load(write_deployments(tmp_path).read_text())["deployments"]
    by_hand = {each["entrypoint"] for each in deployments if not each.get("schedules")}
    assert by_hand == {f"synthmill.flows.deployed:{identifier(name)}" for name in methods()}
    assert {each["name"] for each in deployments if each.get("schedules")} == {"nightly", "weekly"}
    for deployment in deployments:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        if deployment["parameters"]:
            jsonschema.validate(
                deployment["parameters"], parameter_schema(flow).model_dump()
            )  # as Prefect's server does
            assert flow.validate_parameters(deployment["parameters"])
    schema = parameter_schema(deployed.synthesize).model_dump()
    engine = {"spec": "openai:m", "concurrency": 8}
    jsonschema.validate(
        {"settings": {"source": "a.jsonl", "engines": {"teacher": engine, "student": "openai:m"}}}, schema
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"settings": {"source": "a.jsonl", "engines": {"teacher": {"speck": "openai:m"}}}}, schema)


def test_rows_of_the_dataset_are_what_trainers_read(config: Path, tmp_path: Path) -> None:
    synthmill("run", "synthesize", "--config", config, "--workers", 0, cwd=tmp_path)
    [file] = (tmp_path / "store" / "datasets").glob("*/data/*.parquet")
    card = (file.parents[1] / "README.md").read_text()
    assert "answers; 0 were cut at max_tokens, and 0 were broken off by a content filter; both are in no pair" in card
    frame = pl.read_parquet(file)
    assert frame.columns[:6] == ["id", "parent_id", "source", "prompt", "chosen", "rejected"]
    assert frame["id"].n_unique() == frame.height
