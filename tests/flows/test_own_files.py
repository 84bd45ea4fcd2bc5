"""A user's stages lie beside the dataset with their hashes, so that it can be made again where they are not."""

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

import synthmill
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.flows.pages.exporting import export_run
from synthmill.flows.pages.own_files import OwnFiles
from synthmill.schemas.errors import InputError
from synthmill.schemas.export_settings import ExportSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import Store
from synthmill.storage.published.folder import marker_of
from synthmill.tasks.python_files import checksum
from tests.conftest import ChatServer, prompts, write_jsonl

LOUD = """
import words

SERVICE = "a-name-that-nobody-may-see"

def loud(row: dict) -> dict:
    return {**row, "loud": words.upper(row["prompt"])}

loud.adds = ("loud",)
"""
ASK = """
from typing import ClassVar

from synthmill import Recipe, Request
from synthmill.schemas.rows import Instruction
from synthmill.tasks.prompts import load

class Shorter(Recipe[Instruction, Instruction]):
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"ask/shorter": ()}

    def steps(self, row):
        [completion] = yield [Request(role="teacher", messages=load("ask/shorter").render(row=row))]
        return Instruction.child_of(row, self.name, prompt=completion.text)
"""
WORDS = "def upper(text):\n    return text.upper()\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with stages in it, below it and outside of it."""
    home = tmp_path / "home"
    for folder, name, text in (
        (home, "mine.py", LOUD),
        (home, "words.py", WORDS),
        (home / "more", "ask.py", ASK),
        (tmp_path / "elsewhere", "mine.py", LOUD.replace("loud", "louder")),
        (tmp_path / "elsewhere", "words.py", WORDS.replace("upper()", "swapcase()")),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (home / "more" / "prompts" / "ask").mkdir(parents=True)
    template = "{# version 1; source: ours #}{% block user %}Shorter: {{ row.prompt }}{% endblock %}"
    (home / "more" / "prompts" / "ask" / "shorter.jinja").write_text(template)
    write_jsonl(home / "in.jsonl", prompts(3))
    monkeypatch.chdir(home)
    return home


def pipeline(server: ChatServer, folder: Path) -> dict[str, Any]:
    steps = {
        "loud": {"stage": "mine.py:loud"},
        "louder": {"stage": f"{folder}/elsewhere/mine.py:louder"},
        "short": {"stage": "./more/ask.py:Shorter"},
    }
    return {"source": "in.jsonl", "engines": {"teacher": server.spec}, "steps": steps}


def keys(settings: dict[str, Any], store: Path) -> list[str]:
    return [step.key for step in plan(read_settings(PipelineSettings, None, {**settings, "store": str(store)})).stages]


def test_stages_of_ones_own_lie_beside_their_dataset(
    home: Path, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pipeline(server, tmp_path)
    record = synthmill.run("pipeline", settings)
    export = ExportSettings(run=record.id, to=str(tmp_path / "out"), store="store")
    export_run(Store(home / "store"), record, export, quiet=True)
    for folder in (Path(record.dataset), tmp_path / "out"):
        files = {name: checksum((folder / name).read_bytes()) for name in marker_of(folder)["code"]}
        assert files.keys() == {
            *("code/mine.py", "code/words.py", "code/mine-2/mine.py", "code/mine-2/words.py"),
            *("code/more/ask.py", "code/more/prompts/ask/shorter.jinja"),
        }
        assert files.items() <= marker_of(folder)["checksums"].items()
        assert marker_of(folder)["code"] == {name: hash[:12] for name, hash in files.items()}
        card = (folder / "README.md").read_text()
        assert not [name for name, hash in files.items() if f"`{name}@{hash[:12]}`" not in card]
        written = yaml.safe_load((folder / "synthmill.yaml").read_text())
        stages = [fields["stage"] for fields in written["steps"].values()]
        assert stages == ["./code/mine.py:loud", "./code/mine-2/mine.py:louder", "./code/more/ask.py:Shorter"]
    before = keys(settings, home / "store")
    shutil.copy(home / "in.jsonl", tmp_path / "out")
    shutil.rmtree(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "out")
    assert keys({**written, "engines": settings["engines"]}, tmp_path / "other") == before


def test_a_folder_that_is_called_as_a_stages_file_is_loaded(home: Path, tmp_path: Path, server: ChatServer) -> None:
    record = synthmill.run("pipeline", {**pipeline(server, tmp_path), "steps": {"loud": {"stage": "./mine.py:loud"}}})
    export = ExportSettings(run=record.id, to=str(tmp_path / "mine"), store="store")
    export_run(Store(home / "store"), record, export, quiet=True)
    rows = datasets.load_dataset(str(tmp_path / "mine"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["loud"][0].isupper()


def test_a_secret_in_a_stages_file_is_not_exported(
    home: Path, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = synthmill.run("pipeline", {**pipeline(server, tmp_path), "steps": {"loud": {"stage": "./mine.py:loud"}}})
    monkeypatch.setenv("SERVICE_TOKEN", "a-name-that-nobody-may-see")
    export = ExportSettings(run=record.id, to=str(tmp_path / "out"), store="store")
    with pytest.raises(InputError, match=r"^code/mine.py holds the value of the environment variable SERVICE_TOKEN"):
        export_run(Store(home / "store"), record, export)
    assert not (tmp_path / "out").exists()


def test_files_are_found_wherever_settings_name_them(home: Path) -> None:
    own = OwnFiles()
    scorers = {"scorers": [{"spec": "python:./more/ask.py:Shorter"}, "python:../elsewhere/mine.py:louder"]}
    named = {"scorers": [{"spec": "python:./code/more/ask.py:Shorter"}, "python:./code/mine.py:louder"]}
    assert own.named_in(scorers) == named
    assert own.files.keys() == {"code/mine.py", "code/more/ask.py"}
    texts = {"prompt": "mine.py: what is it?", "where": "length(prompt) > 2", "stage": "kit.none.py:f"}
    assert own.named_in(texts) == texts
