"""Application files: every form a prompt may have, and what is wrong with a bad one."""

import json
import re
from pathlib import Path

import pytest
import yaml

from synthmill.schemas.applications import Application, Environment, InputForm, Limits
from synthmill.schemas.dialogues import SignedDialogue
from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.applications import read_application
from tests.command import ROOT

ENVIRONMENT = {"name": "a machine"}


def write(folder: Path, **fields: object) -> Path:
    path = folder / "app.yaml"
    path.write_text(yaml.safe_dump({"environment": ENVIRONMENT, **fields}))
    return path


@pytest.mark.parametrize(
    "prompt",
    [
        "<USER>: rules\n<AGENT>: fine\n<USER>: Problem: ",
        ["rules", "fine", "Problem: "],
        [{"user": "rules"}, {"agent": "fine"}, {"user": "Problem: "}],
        [
            {"role": "user", "content": "rules"},
            {"role": "agent", "content": "fine"},
            {"role": "user", "content": "Problem: "},
        ],
        [
            {"role": "Human", "content": [{"type": "text", "text": "ru"}, {"type": "text", "text": "les"}]},
            {"role": "gpt", "content": "fine"},
            {"human": "Problem: "},
        ],
        {"file": "prompt.txt"},
        {"file": "prompts.json", "pointer": "/a~1b/1"},
        [{"user": {"file": "prompts.json", "pointer": "/a~1b/0"}}, {"agent": "fine"}, {"user": "Problem: "}],
    ],
    ids=["markers", "texts", "roles", "messages", "spellings", "file", "pointer", "pointers"],
)
def test_a_prompt_may_be_written_in_many_ways(tmp_path: Path, prompt: object) -> None:
    (tmp_path / "prompt.txt").write_text("<USER>: rules\n<AGENT>: fine\n<USER>: Problem: ")
    (tmp_path / "prompts.json").write_text(json.dumps({"a/b": ["rules", ["rules", "fine", "Problem: "]]}))
    made, worlds = read_application(write(tmp_path, prompt=prompt))
    assert [(turn.role, turn.content) for turn in made.turns] == [
        ("user", "rules"),
        ("assistant", "fine"),
        ("user", "Problem: "),
    ]
    assert made.context == "<USER>: rules\n<AGENT>: fine\n<USER>: Problem: "
    assert (made.name, worlds) == ("app", {})
    again, _ = read_application(write(tmp_path, prompt=prompt))
    assert again.id == made.id


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": ["rules", "fine"]}, "no open user turn: its last turn, 1, is the agent's"),
        ({"prompt": "<USER>: rules <AGENT>: fine"}, "no open user turn"),
        ({"prompt": "<AGENT>: fine <USER>:"}, "unbalanced: turn 0 is assistant's, expected user's"),
        ({"prompt": "<USER>: a <USER>: b"}, "unbalanced: turn 1 is user's after another user turn"),
        ({"prompt": "rules without markers"}, "does not begin with <USER>:"),
        ({"prompt": "rules <USER>: a"}, "does not begin with <USER>:"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": 7}, "the prompt is int"),
        ({"prompt": [{"robot": "x"}]}, "turn 0 of the prompt is"),
        ({"prompt": [{"role": "developer", "content": "x"}]}, "turn 0 of the prompt is"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "turn 0 of the prompt has image in content"),
        ({"prompt": ["", "fine", ""]}, "turn 0 of the prompt is empty"),
        ({"prompt": {"file": "nowhere.txt"}}, "cannot be read"),
        ({"prompt": {"file": "app.yaml", "pointer": "/x"}}, "has nothing at '/x'"),
        ({}, "has no `prompt`"),
        ({"prompt": ["a"], "actions": "x"}, "actions: no such field"),
        ({"prompt": ["a"], "action": "(["}, "action is no regular expression"),
        ({"prompt": ["a"], "environment": {}}, "environment.name: must be set"),
        ({"prompt": ["a"], "environment": {**ENVIRONMENT, "starts_at": 2}}, "starts_at must be odd"),
        (
            {"prompt": ["a"], "environment": {**ENVIRONMENT, "starts_at": 5}},
            "starts_at is 5, but the prompt has 1 turns",
        ),
        ({"prompt": ["a"], "environment": {**ENVIRONMENT, "world": "x.py"}}, "expected FILE.py:CLASS"),
        ({"prompt": ["a"], "environment": {**ENVIRONMENT, "world": "x.py:X"}}, "there is no file"),
        ({"prompt": ["a"], "tools": [{"description": "x"}]}, "tool 0 has no name"),
        ({"prompt": ["a"], "tools": {"x": 1}}, "tools is dict"),
        ({"prompt": ["a"], "tools": [{"name": ""}]}, "tool 0 has no name"),
        ({"prompt": ["a"], "tools": [{"name": "x"}, {"name": "x"}]}, "two tools are called x"),
        (
            {"prompt": ["a"], "tools": [{"name": "x", "parameters": {"type": "object", "required": 1}}]},
            "no JSON schema",
        ),
        ({"prompt": [{"user": "a"}, {"agent": True}]}, "turn 1 of the prompt is True; expected text (in quotes"),
        ({"prompt": [{"user": {"fle": "x"}}]}, "turn 0 of the prompt is {'fle': 'x'}"),
        ({"prompt": ["a"], "inputs": {"demos": ["a", 10]}}, "demo 1 is 10; expected text"),
        ({"prompt": ["a"], "inputs": {"demos": "a"}}, "inputs.demos is str; expected a list"),
        ({"prompt": ["a"], "id": "x"}, "id: no such field"),
        ({"prompt": ["a"], "action": "a{99999999999}"}, "action is no regular expression"),
        ({"prompt": ["a"], "limits": {"max_turns": 1 << 63}}, "limits.max_turns: Input should be less than"),
        ({"prompt": ["a"], "environment": {"name": ""}}, "environment.name"),
        ({"prompt": ["a"], "environment": {**ENVIRONMENT, "facts": ["x", " "]}}, "one of the facts is empty"),
        ({"prompt": ["a"], "student_input": "x"}, "student_input has no {input}"),
        ({"prompt": ["a"], "inputs": {"list_format": "- "}}, "list_format has no {n}"),
        ({"prompt": ["a"], "name": "My App"}, "name: String should match"),
        ({"prompt": ["a"], "joint_ratio": 2}, "joint_ratio: Input should be less than or equal to 1"),
    ],
)
def test_a_bad_file_is_refused_with_the_fault(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        read_application(write(tmp_path, **fields))
    assert said in error.value.message
    assert "app.yaml" in error.value.message


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00", "[" * 5000])
def test_what_is_no_application_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "app.yaml").write_text(text)
    with pytest.raises(InputError, match=r"app\.yaml"):
        read_application(tmp_path / "app.yaml")
    with pytest.raises(InputError, match="is not there"):
        read_application(tmp_path / "none.yaml")


def test_a_broken_world_is_named(tmp_path: Path) -> None:
    from synthmill.tasks.engines.worlds import load_world

    for text, said in (
        ("1/0", "ZeroDivisionError"),
        ("class Y: pass", "AttributeError"),
        ("class X: pass", "has no draw()"),
    ):
        (tmp_path / "w.py").write_text(text)
        _, worlds = read_application(write(tmp_path, prompt=["a"], environment={**ENVIRONMENT, "world": "w.py:X"}))
        [(name, file)] = worlds.items()
        with pytest.raises(InputError) as error:
            load_world(file, name)
        assert said in error.value.message


def test_the_smallest_application_of_the_guide_is_one(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "dialogues.md").read_text()
    [text] = re.findall(r"```yaml\n(.*?)```", guide, re.S)
    (tmp_path / "tickets.yaml").write_text(text)
    made, _ = read_application(tmp_path / "tickets.yaml")
    assert made.turns_with("two, please")[-1].content == "Customer: two, please"
    named = set(re.findall(r"`(\w+)`", guide.partition("## A world")[0].partition("| `prompt` |")[2]))
    known = {*Application.model_fields, *InputForm.model_fields, *Environment.model_fields, *Limits.model_fields}
    words = {"user", "agent", "role", "content", "file", "pointer"}
    assert named - words <= known, f"the guide names fields that are not there: {named - words - known}"
    signs = re.findall(r"`(\w+)`", guide.partition("| sign |")[2].partition("`cut.*`")[0])
    assert set(signs) - {"action"} <= set(SignedDialogue.model_fields)
