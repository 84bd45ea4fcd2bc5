"""docs/verifiers.md does what it says: its Python runs, its pipeline is planned, its commands are known."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthmill import Session
from synthmill import stages as s
from synthmill.flows.cli import cli
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.settings_files import read_settings
from tests.command import ROOT
from tests.conftest import ChatServer, write_jsonl

PAGE = ROOT / "docs" / "verifiers.md"
PROBLEMS = [{"prompt": f"What is {n} + 1?", "reference": str(n + 1), "topic": "sums"} for n in range(4)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```\n", PAGE.read_text(), re.S)


def test_every_block_of_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNTHMILL_RUN_CODE", raising=False)
    text = PAGE.read_text()
    names: dict[str, Any] = {}
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.S | re.M):
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    assert names["reward"] and names["program"]


def test_its_commands_are_known() -> None:
    lines = re.findall(r"^synthmill (\w+) (.*)$", PAGE.read_text(), re.M)
    assert lines
    for command, rest in lines:
        known = {name for parameter in cli.commands[command].params for name in parameter.opts}
        assert set(re.findall(r"(?<= )(--?[a-z-]+)", f" {rest}")) <= known


def test_its_pipeline_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "problems.jsonl", PROBLEMS)
    [text] = blocks("yaml")
    planned = plan(read_settings(PipelineSettings, None, yaml.safe_load(text)))
    assert {step.step for step in planned.stages} == yaml.safe_load(text)["steps"].keys()


def test_its_pipelines_steps_make_rows(tmp_path: Path, server: ChatServer) -> None:
    with Session(tmp_path / "store", engines={"student": server.spec}, progress=False) as session:
        answers = session.make(PROBLEMS, s.PoolAnswers(policies=("student",), count=3))
        right = session.make(answers, s.VerifierScores(verifier="math"), step="right")
        banded = session.make(right, s.PassRateBand(score="right", lowest=0, highest=1))
        rl = session.make(banded, s.RlRows(verifier="math"))
        sft = session.make(answers, s.VerifierScores(verifier="exact", arguments={"ignore": ["case"]}), step="same")
        assert "same_missing" in sft.frame().columns
    frame = rl.frame()
    columns = {"prompt", "answer", "verifier", "verifier_arguments", "data_source", "pass_rate", "topic"}
    assert frame.height == 4 and columns <= set(frame.columns) and "scores" not in frame.columns
    assert sorted(frame["answer"]) == ["1", "2", "3", "4"] and frame["pass_rate"].null_count() == 0
