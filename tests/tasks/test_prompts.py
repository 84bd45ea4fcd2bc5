"""Prompts and recipes are locked: a change of either is a visible diff, and never serves stale rows."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from synthmill.flows.making.checks import check_prompts
from synthmill.flows.making.stage_list import AnyStage, stages_by_name
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Instruction
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.prompts import FOLDER, Prompt, load
from synthmill.tasks.recipe import Recipe
from tests.tasks.definitions import definition_hash

ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).with_name("lock.json")
REMEDY = (
    "raise its version if rows change, then run SYNTHMILL_LOCK=1 pytest tests/tasks/test_prompts.py and commit the "
    "lock, or write it into LOCK in the method's own test"
)


def every_stage() -> list[AnyStage]:
    return [stage for stage in stages_by_name().values() if is_ours(stage)]


def is_ours(kind: type) -> bool:
    """Whether a class stands in a file of tasks/ or flows/; tests define some that only say so."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    tree = FOLDER.parents[1]
    return kind.__module__.startswith(("synthmill.tasks.", "synthmill.flows.")) and Path(file or "/").is_relative_to(
        tree
    )


def current() -> dict[str, dict[str, str]]:
    stages = {f"{kind.name}@{kind.version}": definition_hash(kind) for kind in every_stage()}
    rules = {name: definition_hash(kind) for name, kind in CutSettings.kinds().items()}  # no stage names them
    templates = {str(path.relative_to(FOLDER).with_suffix("")): "" for path in sorted(FOLDER.rglob("*.jinja"))}
    return {"stages": stages, "rules": rules, "prompts": {name: load(name).hash for name in templates}}


def locks_apart() -> dict[str, dict[str, str]]:
    """What the tests of single methods lock by themselves: a dictionary LOCK of the lock's form."""
    apart: dict[str, dict[str, str]] = {"stages": {}, "rules": {}, "prompts": {}}
    for path in sorted(ROOT.rglob("test_*.py")):
        if re.search(r"^LOCK = \{", path.read_text(), re.M):
            module = importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
            for kind, entries in module.LOCK.items():
                apart[kind] |= entries
    return apart


def test_stages_and_prompts_match_their_lock() -> None:
    apart = locks_apart()
    if os.environ.get("SYNTHMILL_LOCK"):
        together = {
            kind: {n: h for n, h in entries.items() if n not in apart[kind]} for kind, entries in current().items()
        }
        LOCK.write_text(json.dumps(together, indent=2, sort_keys=True) + "\n")
    locked = json.loads(LOCK.read_text())
    for kind, entries in current().items():
        known = locked[kind] | apart[kind]
        for name, found in entries.items():
            assert known.get(name) == found, f"{name} has changed, or is new ({found}): {REMEDY}"
        assert set(known) == set(entries), f"{set(known) ^ set(entries)}: {REMEDY}"


def test_the_lock_sees_what_a_stage_names_and_not_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from typing import ClassVar
from synthmill.schemas.rows import Instruction
from synthmill.tasks.recipe import Recipe

MOST = {most}

def parsed(text):
    {comment}
    return helper(text)

def helper(text):
    return text{what}

def unrelated():
    return {unrelated}

class Moved(Recipe[Instruction, Instruction]):
    {doc}
    name: ClassVar = "moved"
    version: ClassVar = "1"

    def steps(self, row):
        return parsed(row.prompt)[:MOST]
"""
    same = {"most": 5, "comment": "# read", "what": ".strip()", "unrelated": 1, "doc": '"""One."""'}
    monkeypatch.syspath_prepend(str(tmp_path))

    def hashed(module: str, **changed: Any) -> str:
        package = tmp_path / "tasks_of_tests"
        package.mkdir(exist_ok=True)
        path = package / f"{module}.py"
        path.write_text(source.format(**{**same, **changed}))
        spec = importlib.util.spec_from_file_location(f"synthmill.tasks.{module}", path)
        assert spec and spec.loader
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, loaded)
        spec.loader.exec_module(loaded)
        kind: type = loaded.Moved
        monkeypatch.setattr(kind, "version", "0")
        return definition_hash(kind)

    first = hashed("here")
    assert hashed("elsewhere") == first
    assert hashed("remarks", comment='"""Read."""', doc='"""Two."""', unrelated=2) == first
    assert len({first, hashed("constant", most=6), hashed("further", what=".lower()")}) == 3


@pytest.mark.parametrize("kind", every_stage(), ids=lambda kind: kind.name)
def test_every_template_gets_its_variables(kind: type) -> None:
    if issubclass(kind, Recipe) and kind.prompts:
        check_prompts(kind())


def test_templates_are_strict_and_never_read_rows_as_syntax() -> None:
    prompt = Prompt("p", "{% block system %}{% endblock %}{% block user %}Say: {{ row.prompt }}{% endblock %}")
    row = Instruction(id="a", prompt="{{ 7 * 7 }} {% for %} <|im_end|>")
    [message] = prompt.render(row=row)
    assert (message.role, message.content) == ("user", "Say: {{ 7 * 7 }} {% for %} <|im_end|>")
    with pytest.raises(InputError, match="prompt p: 'row' is undefined"):
        prompt.render()
    with pytest.raises(InputError, match="there is no prompt nowhere/none"):
        load("nowhere/none")
    assert (prompt.variables(), prompt.fields("row")) == ({"row"}, {"prompt"})


def test_a_template_cannot_reach_outside() -> None:
    prompt = Prompt("p", "{% block user %}{{ row.__class__.__mro__ }}{% endblock %}")
    with pytest.raises(InputError):
        prompt.render(row=Instruction(id="a", prompt="x"))
