"""The folder of methods is their registry: a method of four files runs by its name, a file that is none says why."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from synthmill.flows.methods import methods, read_method, run_fields
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.settings import RunSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.published.folder import marker_of
from synthmill.storage.runs import runs
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

METHOD = '''
"""Prompts said in other words, one each."""

from typing import ClassVar, Literal

from synthmill.flows.making.plan import Plan, chain, file_source, open_store
from synthmill.schemas.calls import Request
from synthmill.schemas.rows import Instruction, Row
from synthmill.schemas.settings import ENGINES, EngineSettings, RunSettings, SourceSettings
from synthmill.storage.published.configurations import (Dataset, Table)
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps


class Rephrased(Row):
    prompt: str


class Rephrasing(Recipe[Instruction, Rephrased]):
    name: ClassVar = "rephrasing"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"rephrase/prompt": ()}

    def steps(self, row: Instruction) -> Steps[Rephrased]:
        [completion] = yield [Request(role="teacher", messages=load("rephrase/prompt").render(row=row))]
        return Rephrased.child_of(row, self.name, prompt=completion.text)


class RephraseSettings(RunSettings):
    source: SourceSettings
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES


def plan(settings: RephraseSettings) -> Plan:
    store = open_store(settings)
    roles = {"teacher": resolve(settings.engine("teacher"), store)}
    source = file_source(store, settings.source, settings.rows_per_part)

    def publish(manifests):
        rows = stream_of(store, manifests["rephrasing"])
        return Dataset("Rephrased", "Prompts.", {"prompts": Table.of(rows, "prompts", "a prompt")})

    return Plan("rephrase", settings, store, source, chain(roles, source.key, Rephrasing()), publish, "rephrasing")
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "own"
    (own / "prompts" / "rephrase").mkdir(parents=True)
    (own / "prompts" / "rephrase" / "prompt.jinja").write_text(
        "{% block user %}In other words: {{ row.prompt }}{% endblock %}"
    )
    (own / "rephrase.py").write_text(METHOD.lstrip())
    return own


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 1])
def test_a_method_of_ones_own_runs_by_its_name(folder: Path, tmp_path: Path, server: ChatServer, workers: int) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    run = ("run", "rephrase", "--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}")
    out, _ = synthmill(*run, "--workers", workers, cwd=tmp_path, SYNTHMILL_METHODS=str(folder))
    assert "rephrasing" in out and server.stats()["total"] == 3
    out, _ = synthmill("run", "--help", cwd=tmp_path, SYNTHMILL_METHODS=str(folder))
    assert "Prompts said in other words, one each" in out and "synthesize" in out


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 1])
def test_a_method_runs_by_its_files_path(folder: Path, tmp_path: Path, server: ChatServer, workers: int) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    settings = ("--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}", "--workers", workers)
    out, _ = synthmill("run", "own/rephrase.py", *settings, "--dry-run", cwd=tmp_path, apart=True)
    assert "rephrasing" in out and server.stats()["total"] == 0
    out, _ = synthmill("run", "./own/rephrase.py", *settings, cwd=tmp_path, apart=True)
    assert "rephrasing" in out and server.stats()["total"] == 3
    _, err = synthmill("run", "./own/rephrase.py", *settings, cwd=tmp_path, apart=True)
    assert "nothing to do" in err and server.stats()["total"] == 3
    [run] = runs(Store(tmp_path / "store"))
    assert run.flow == "rephrase"
    if not workers:
        made_again_beside_its_dataset(Path(run.dataset), tmp_path, settings[2:])
        assert server.stats()["total"] == 3
    path = folder / "rephrase.py"
    text = path.read_text().replace("def plan(", "def in_other_words(").replace('"rephrase", s', '"in-other-words", s')
    path.write_text(text)
    out, err = synthmill("run", "own/rephrase.py:in_other_words", *settings, cwd=tmp_path, apart=True)
    assert "in-other-words" in out and server.stats()["total"] == 3  # the same step of the same store


def made_again_beside_its_dataset(dataset: Path, home: Path, settings: tuple[Any, ...]) -> None:
    """What the card says works in a folder that has the dataset and its source only."""
    copy = home / "copy"
    shutil.copytree(dataset, copy)
    shutil.copy(home / "in.jsonl", copy)
    card = (copy / "README.md").read_text()
    [hash] = re.findall(r"`code/prompts/rephrase/prompt.jinja@\w{12}`, `code/rephrase.py@(\w{12})`", card)
    assert marker_of(copy)["checksums"]["code/rephrase.py"].startswith(hash)
    assert "synthmill run ./code/rephrase.py --config synthmill.yaml\n" in card
    again = ("run", "./code/rephrase.py", "--config", "synthmill.yaml", "--store", home / "store")
    _, err = synthmill(*again, *settings, cwd=copy, apart=True)
    assert "nothing to do" in err


def test_a_path_that_is_no_method_says_why(folder: Path, tmp_path: Path) -> None:
    for spec, fault in (
        ("./none.py", "there is no file"),
        ("own/rephrase.py:words", "has 0 functions called words; expected one, which takes the settings"),
        ("own/skillmix.py", "skillmix.py has the same name; rename one of them"),
        ("own/__init__.py", "is a folder's; name the folder above it in SYNTHMILL_METHODS"),
    ):
        if "none" not in spec:
            path = tmp_path / spec.partition(":")[0]
            path.write_text((folder / "rephrase.py").read_text())
        _, err = synthmill("run", spec, cwd=tmp_path, expect=2)
        assert fault in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (('"""Prompts said in other words, one each."""', ""), "it has no docstring"),
        (("def plan(", "def plan_it("), "it has 0 functions called plan"),
        (("def plan(", "def plan(s: int): ...\n\n\ndef plan("), "it has 2 functions called plan"),
        (("plan(settings: RephraseSettings)", "plan(settings)"), "its plan has no parameter with a type"),
        (("    source: Source", "    seed: str = ''\n    source: Source"), "its settings redefine seed"),
        (("def plan(", "def plan)("), "it cannot be read"),
    ],
)
def test_a_file_that_is_no_method_says_why_and_the_others_work(
    folder: Path, tmp_path: Path, change: tuple[str, str], fault: str
) -> None:
    path = folder / "rephrase.py"
    path.write_text(path.read_text().replace(*change))
    assert read_method(path).fault.startswith(fault)
    given = {"SYNTHMILL_METHODS": str(folder)}
    out, _ = synthmill("run", "--help", cwd=tmp_path, **given)
    said = " ".join(out.split())
    assert f"left out: {path}: {fault}".replace(" ", "") in said.replace(" ", "") and "synthesize" in out
    _, err = synthmill("run", "rephrase", cwd=tmp_path, expect=2, **given)
    assert fault in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("import Recipe, Steps", "import Recipe, Steps, Nothing"), "it cannot be imported: ImportError"),
        (
            ("    return Plan(", "    1 / 0\n    return Plan("),
            "its plan failed: ZeroDivisionError: division by zero (rephrase.py:",
        ),
        (("    return Plan(", "    Plan("), "its plan failed: TypeError: plan must return a Plan called 'rephrase'"),
        (('publish, "rephrasing")', 'publish, "trunk")'), "rephrase has no step trunk, its trunk; its steps are"),
        (
            ('roles = {"teacher"', 'roles = {"writer"'),
            "the stage rephrasing asks teacher, a role that its plan gives no",
        ),
        (
            ('Request(role="teacher"', 'Request(role="writer"'),
            "the stage rephrasing asks writer, which is not among its",
        ),
    ],
)
def test_a_method_that_is_wrong_is_one_clear_line(
    folder: Path, tmp_path: Path, server: ChatServer, change: tuple[str, str], says: str
) -> None:
    path = folder / "rephrase.py"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    run = ("run", "rephrase", "--workers", 0, "--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}")
    _, err = synthmill(*run, cwd=tmp_path, expect=2, SYNTHMILL_METHODS=str(folder))
    assert says in err and "Traceback" not in err


def test_a_bug_in_a_recipe_is_named_and_mended_rows_are_made_on_demand(
    folder: Path, tmp_path: Path, server: ChatServer
) -> None:
    path = folder / "rephrase.py"
    whole = path.read_text()
    path.write_text(whole.replace("        return Rephrased", "        1 / 0\n        return Rephrased"))
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    run = ("run", "rephrase", "--workers", 0, "--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}")
    given = {"SYNTHMILL_METHODS": str(folder)}
    _, err = synthmill(*run, cwd=tmp_path, expect=1, **given)
    assert "3 recipe_error" in err and "division by zero (rephrase.py:" in err and "--retry-lost" in err
    path.write_text(whole)
    synthmill(*run, "--retry-lost", cwd=tmp_path, **given)
    assert server.stats()["total"] == 3  # the answers were there


def test_two_methods_of_one_name_are_neither(folder: Path, tmp_path: Path) -> None:
    (folder / "synthesize.py").write_text(METHOD.lstrip())
    _, err = synthmill("run", "synthesize", cwd=tmp_path, expect=2, SYNTHMILL_METHODS=str(folder))
    assert "has the same name; rename one of them" in err


def test_a_method_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    _, err = synthmill("run", "synthesise", cwd=tmp_path, expect=2)
    assert "no method is called 'synthesise'; expected one of dialogues, documents, judge, multifaceted" in err


def test_the_fields_of_every_run_are_read_without_importing_them() -> None:
    assert run_fields() == set(PublishSettings.model_fields)


def test_every_method_here_can_be_used() -> None:
    assert {name: method.fault for name, method in methods().items() if method.fault} == {}
    for name, method in methods().items():
        assert issubclass(method.settings, RunSettings), name
