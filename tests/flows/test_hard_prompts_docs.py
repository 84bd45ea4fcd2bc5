"""Every block of docs/hard-prompts.md is planned, and every flow that it names is there."""

import re
from pathlib import Path

import pytest
import yaml

from synthmill.flows.commands.as_yaml import pipeline_of
from synthmill.flows.methods import method
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.settings_files import read_settings
from tests.command import ROOT
from tests.conftest import prompts, write_jsonl
from tests.flows.test_pipeline_docs import ENGINE, whole

GUIDE = (ROOT / "docs" / "hard-prompts.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
SETTINGS = re.findall(r"--set [\"']?([\w.]+)=", GUIDE)


@pytest.mark.parametrize("text", BLOCKS)
def test_every_block_is_planned(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", prompts(8))
    planned = plan(read_settings(PipelineSettings, None, whole(text, ENGINE)))
    assert {step.step for step in planned.stages} == yaml.safe_load(text)["steps"].keys()


def test_flows_and_settings_are_there() -> None:
    names = set(re.findall(r"^synthmill run (\S+)", GUIDE, re.M))
    assert names == {"reversegen", "self-challenge", "p-aligner", "astral", "steer", "instructir"}
    fields = {field for name in {*names, "retpo"} for field in method(name).settings.model_fields}
    assert SETTINGS and {setting.partition(".")[0] for setting in SETTINGS} <= fields


@pytest.mark.parametrize("flow", ["reversegen", "self-challenge", "p-aligner", "steer", "instructir"])
def test_a_flow_as_yaml_has_the_flows_keys(flow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", prompts(8))
    settings = {"source": "prompts.jsonl", "store": "store", "engines": {"teacher": ENGINE}}
    settings |= {"rounds": 2} if flow == "self-challenge" else {}
    named = method(flow).plan(read_settings(method(flow).settings, None, settings))
    written = yaml.safe_load(yaml.safe_dump(pipeline_of(named), sort_keys=False))
    own = plan(read_settings(PipelineSettings, None, written | {"store": "store"}))
    assert [step.key for step in own.stages] == [step.key for step in named.stages]
