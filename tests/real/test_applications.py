"""The real AgentBench texts as applications, and real trajectories through the same measures as synthesized ones."""

import json
from pathlib import Path

import pytest

from bench.trajectories import HERE, read_rows, real_os, real_webshop
from synthmill.schemas.applications import Application
from synthmill.storage.plain_files.applications import read_application
from synthmill.tasks.generators.dialogues.pseudo_inputs import parse_items
from synthmill.tasks.generators.dialogues.signs import is_action
from tests.conftest import SHARED

AGENT = SHARED / "data" / "agent"
PROMPTS = AGENT / "agentbench_prompts.json"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not AGENT.is_dir(), reason="the real inputs (../shared/data/agent) are not here"),
]


def of_bench(name: str, folder: Path) -> Application:
    path = folder / f"{name}.yaml"
    path.write_text((HERE / "applications" / f"{name}.yaml").read_text().replace("REAL/", f"{AGENT.resolve()}/"))
    return read_application(path)[0]


@pytest.mark.parametrize(("name", "turns"), [("os", 7), ("webshop", 9)])
def test_the_benchs_applications(tmp_path: Path, name: str, turns: int) -> None:
    application = of_bench(name, tmp_path)
    assert len(application.turns) == turns
    said = [turn.content for turn in application.turns if turn.role == "assistant"]
    assert sum(is_action(application.action, text) for text in said) >= len(said) - 1
    form = application.inputs
    listed = "\n".join(form.list_format.replace("{n}", str(n)) + demo for n, demo in enumerate(form.demos, 1))
    assert parse_items(listed, form) == list(form.demos)  # what is asked for is what is read


@pytest.mark.parametrize(
    ("pointer", "turns"),
    [
        ("/json_prompts/data~1mind2web~1prompt~1llm_prompt.json", 7),
        ("/json_prompts/data~1mind2web~1prompt~1llm_prompt_cot.json", 7),
    ],
)
def test_agentbenchs_own_message_lists_are_prompts(tmp_path: Path, pointer: str, turns: int) -> None:
    app = {"prompt": {"file": str(PROMPTS.resolve()), "pointer": pointer}, "environment": {"name": "a web page"}}
    (tmp_path / "m2w.yaml").write_text(json.dumps(app))
    application, _ = read_application(tmp_path / "m2w.yaml")
    assert len(application.turns) == turns
    assert application.turns[-1].content == ""  # the open user turn


def test_alternating_texts_are_a_prompt_once_they_have_an_open_turn(tmp_path: Path) -> None:
    name = "src/server/tasks/alfworld/prompts/alfworld_multiturn.json"
    lists = json.loads(PROMPTS.read_text())["json_prompts"][name]
    texts = lists["react_put_0"]
    asked = [*texts[: len(texts) - len(texts) % 2], "Another room. "]
    (tmp_path / "alfworld.yaml").write_text(json.dumps({"prompt": asked, "environment": {"name": "a household"}}))
    application, _ = read_application(tmp_path / "alfworld.yaml")
    assert len(application.turns) == len(asked)
    assert application.turns[1].content == "go to cabinet 1"


def test_real_trajectories_are_mostly_valid() -> None:
    for file, acts_of, least in (
        ("intercode_bash_trajectories.jsonl.gz", real_os, 400),
        ("react_webshop_trajectories.jsonl.gz", real_webshop, 250),
    ):
        dialogues = [acts_of(row) for row in read_rows(AGENT / file)]
        acts = [act for dialogue in dialogues for act in dialogue]
        assert len(dialogues) > least
        assert 0.8 < sum(act.valid for act in acts) / len(acts) < 0.95
