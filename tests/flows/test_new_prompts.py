"""Methods that make prompts as parts of pipelines: their files have their keys, and their stages chain."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from synthmill.flows.commands.as_yaml import pipeline_of
from synthmill.flows.methods import method
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.settings_files import read_settings
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

ENGINE, OTHER = (f"openai:{name}@http://127.0.0.1:9/v1" for name in ("model", "other"))
ALL: dict[str, dict[str, Any]] = {
    "self-instruct": {"count": 600, "dedup": {"layers": ["exact"]}},
    "evol-instruct": {"operations": ["deepen", "broaden"]},
    "tapir": {"engines": {"teacher": ENGINE, "student": OTHER}},
    "alma": {"policies": ["a", "b"], "engines": {"teacher": ENGINE, "a": ENGINE, "b": OTHER}},
}


@pytest.mark.parametrize("name", ALL)
def test_a_method_as_yaml_has_its_keys(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    write_jsonl(tmp_path / "bench.jsonl", prompts(1))
    values = {"source": "in.jsonl", "store": "store", "engines": {"teacher": ENGINE}, **ALL[name]}
    values["decontaminate"] = {"benchmarks": ["bench.jsonl"]}  # its name is a part of keys
    named = method(name).plan(read_settings(method(name).settings, None, values))
    written = yaml.safe_load(yaml.safe_dump(pipeline_of(named), sort_keys=False))
    own = plan(read_settings(PipelineSettings, None, written | {"store": "store"}))
    assert [step.key for step in own.stages] == [step.key for step in named.stages]


PIPELINE = """
source: {rows: 4}
engines: {teacher: "ENGINE"}
workers: 0
steps:
  dealt: {stage: attributes, columns: {persona: [a miller, a pilot], kind: [a riddle], tone: [curt]}}
  asked: {stage: persona_tasks, max_tokens: 200}
  unlike: {stage: novel_prompts, overlap: 1.0}
  rated: {stage: rate_prompts}
  good: {stage: rating_limits, least_quality: very poor}
  evolved: {stage: evolve, rounds: 1, operations: [deepen]}
  harder: {stage: generations}
  responded: {stage: respond, from: good}
publish:
  sft: {from: harder, kind: completions, answer: response}
  chats: {from: responded}
"""


def test_their_stages_chain_and_a_users_columns_go_along(tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "mine.yaml").write_text(PIPELINE.replace("ENGINE", server.spec))
    synthmill("run", "mine.yaml", cwd=tmp_path)
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    chats, harder = (pl.read_parquet(folder / "data" / name / "*.parquet") for name in ("chats", "sft"))
    assert chats.height == 4 and {"tone", "quality", "response", "persona"} <= set(chats.columns)
    assert harder.height and set(harder["tone"]) == {"curt"} and {"level", "operation", "round"} <= set(harder.columns)


@pytest.mark.parametrize("name", [*ALL, "magpie", "personas"])
def test_the_settings_on_the_page_make_a_plan(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    write_jsonl(tmp_path / "personas.jsonl", [{"persona": "a miller"}])
    page = (ROOT / "docs" / "new-prompts.md").read_text().replace("MODEL@", "model@")
    [block] = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.S) if block.startswith(f"# {name}\n")]
    (tmp_path / "file.yaml").write_text(re.sub(r"http://[\d.:]+/v1", "http://127.0.0.1:9/v1", block))
    settings = read_settings(method(name).settings, tmp_path / "file.yaml", {"store": "store"})
    assert method(name).plan(settings).trunk
