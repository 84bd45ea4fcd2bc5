"""A pipeline of eight steps, from finished run to readers: words are by step, and no folder of this machine shows."""

import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.settings_files import read_settings
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.eight_steps import ASKING, STEPS, pipeline, rows_of, tables, write_pipeline

ROWS = 40
PROMPT = "Write one short question about {{ topic }} and {{ about }} that {{ author }}, a {{ level }}, would ask."
WHERE = "length(question) > 66"


def prepare(folder: Path, server: ChatServer) -> dict[str, Any]:
    """The settings of a pipeline whose source, prompt and persons are files by their absolute paths."""
    write_jsonl(folder / "in.jsonl", [{"id": f"row-{n}", "about": f"thing {n}"} for n in range(ROWS)])
    write_jsonl(folder / "persons.jsonl", [{"id": f"p{n}", "person": f"Person {n}"} for n in range(5)])
    (folder / "qa.jinja").write_text(PROMPT)
    settings = pipeline(server, ROWS, source={"path": str(folder / "in.jsonl")})
    settings["steps"]["seeds"]["columns"]["author"] = {"persons": str(folder / "persons.jsonl"), "column": "person"}
    settings["steps"]["question"]["prompt"] = str(folder / "qa.jinja")
    return settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, session_server: ChatServer) -> Path:
    """A folder with a store of two finished runs; the second one's filter lets less through."""
    home = tmp_path_factory.mktemp("eight")
    settings = prepare(home, session_server)
    for where in ("true", WHERE):
        settings["steps"]["readable"]["where"] = where
        write_pipeline(home, settings)
        synthmill("run", "my.yaml", cwd=home, apart=False)
    return home


def datasets(home: Path) -> list[Path]:
    """The datasets of a store, the oldest first."""
    return sorted((home / "store" / "datasets").iterdir(), key=lambda folder: (folder / "README.md").stat().st_mtime_ns)


def keys(config: Path, store: Path) -> list[str]:
    """A pipeline's steps by their keys, sources first."""
    planned = plan(read_settings(PipelineSettings, config, {"store": str(store)}))
    return [*(source.key for source in planned.sources), *(step.key for step in planned.stages)]


def test_settings_beside_the_dataset_plan_the_same_keys_beside_its_sources(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = datasets(home)[-1] / "synthmill.yaml"
    assert yaml.safe_load(beside.read_text())["steps"]["question"]["prompt"] == PROMPT
    for name in ("in.jsonl", "persons.jsonl"):  # the prompt's file is not needed
        shutil.copy(home / name, tmp_path)
    shutil.copy(beside, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert keys(tmp_path / "synthmill.yaml", tmp_path / "other") == keys(home / "my.yaml", home / "store")
    card = (datasets(home)[-1] / "README.md").read_text()
    assert "synthmill run pipeline --config synthmill.yaml\n" in card
    out, _ = synthmill("run", "pipeline", "--config", "synthmill.yaml", "--store", home / "store", cwd=tmp_path)
    assert str(datasets(home)[-1]) in out


def test_card_report_and_export_name_every_step_and_no_folder(home: Path, tmp_path: Path) -> None:
    synthmill("export", "questions", "--to", tmp_path / "out", "--format", "sft", "--format", "as-made", cwd=home)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if str(home).encode() in path.read_bytes()]
    for page in ("README.md", "report.html"):
        text = (tmp_path / "out" / page).read_text()
        assert not [step for step in ("source", *STEPS) if step not in text] and "Traceback" not in text
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"\| `readable` \| 40 \| \d+ \| \d+% \| \d+ filtered \|", card)
    assert "ask/question@" in card and "ask/grade@" in card and "judge" in card
    from datasets import load_dataset

    rows = load_dataset(str(tmp_path / "out"), "sft", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == rows_of(home / "store", "sft").height and rows[0]["author"].startswith("Person")
    assert str(home) not in str(rows.to_list())
    out, _ = synthmill("report", "questions", cwd=home)
    assert Path(out.strip()).read_text().count("<h2") >= 4


def test_diff_of_two_runs_says_which_step_changed(home: Path) -> None:
    first, second = sorted(path.stem for path in (home / "store" / "runs").glob("*.json"))[:2]
    out, _ = synthmill("diff", first, second, cwd=home)
    assert f"steps.readable.where: true -> {WHERE}" in out
    assert re.search(r"readable +40 +\d+ +0 +\d+", out) and "prompts: the same" in out
    assert re.search(r"questions: \d+ rows in both, 0 changed, \d+ lost, 0 gained", out)


def test_a_budget_of_one_step_stops_there_and_a_larger_one_goes_on(tmp_path: Path, server: ChatServer) -> None:
    run = ("run", write_pipeline(tmp_path, pipeline(server, ROWS)))
    _, err = synthmill(*run, "--set", "budget.stages.good.requests=3", cwd=tmp_path, expect=2)
    assert "budget.stages.good: no such step asks a model; expected question, answer, graded" in err
    assert "Prefect" not in err
    _, err = synthmill(*run, "--set", "budget.stages.answer.requests=15", cwd=tmp_path, expect=3)
    assert "answer's budget is spent: 15 of 15 requests" in err
    assert ROWS < server.stats()["total"] <= ROWS + 15
    synthmill(*run, "--set", "budget.stages.answer.requests=100", cwd=tmp_path)
    assert (server.stats()["total"], server.stats()["repeated"]) == (len(ASKING) * ROWS, 0)


def test_too_many_drops_are_the_steps_and_so_is_a_step_that_leaves_nothing(tmp_path: Path, server: ChatServer) -> None:
    settings = pipeline(server, 120, drop_limit=0.2)
    settings["steps"]["answer"]["check"] = {"answer": "answer | length < 10"}
    settings["steps"]["answer"]["attempts"] = 1
    run = ("run", write_pipeline(tmp_path, settings))
    _, err = synthmill(*run, cwd=tmp_path, expect=3)
    assert "answer: 120 of 120 rows were dropped (120 failed_check), more than the 20% of drop_limit" in err
    assert server.stats()["total"] == 240
    _, err = synthmill(*run, "--set", "drop_limit=1", cwd=tmp_path, expect=1)
    assert "every one of the 120 rows was dropped in answer (120 failed_check)" in err
    assert server.stats()["total"] == 240
    records = [orjson.loads(path.read_bytes()) for path in sorted((tmp_path / "store" / "runs").glob("*.json"))]
    assert [record["status"] for record in records] == ["stopped", "failed"]


def test_a_preview_shows_rows_through_every_step_and_is_reused(tmp_path: Path, server: ChatServer) -> None:
    settings = pipeline(server, ROWS)
    settings["steps"]["good"]["share"] = 1.0
    run = ("run", write_pipeline(tmp_path, settings))
    out, _ = synthmill(*run, "--preview", 2, cwd=tmp_path)
    assert server.stats()["total"] == 2 * len(ASKING)
    for step in STEPS:
        assert len(re.findall(rf"^{step}  \w+_[0-9a-f]{{8}}  row", out, re.MULTILINE)) == 2, step
    synthmill(*run, cwd=tmp_path)
    assert (server.stats()["total"], server.stats()["repeated"]) == (len(ASKING) * ROWS, 0)


OWN = """
from typing import ClassVar

from synthmill.tasks.frames import FrameStage


class Clean(FrameStage):
    name: ClassVar = "clean"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "question")
    adds: ClassVar = ("question",)
    most: int = 60

    def apply(self, frame, store):
        return frame.with_columns(question=frame["question"].str.slice(0, self.most).str.strip_chars()), []
"""


@pytest.mark.ray
def test_two_ray_workers_make_the_same_dataset_with_a_stage_of_ones_own(tmp_path: Path, server: ChatServer) -> None:
    settings = pipeline(server, ROWS, rows_per_part=7)
    steps = dict(settings.pop("steps"))
    own = {"clean": {"stage": "./mine.py:Clean", "most": 50}}
    first = list(steps).index("readable")
    settings["steps"] = dict([*list(steps.items())[:first], *own.items(), *list(steps.items())[first:]])
    (tmp_path / "mine.py").write_text(OWN)
    run = ("run", write_pipeline(tmp_path, settings))
    synthmill(*run, "--store", "alone", cwd=tmp_path)
    assert rows_of(tmp_path / "alone", "questions")["prompt"].str.len_chars().max() <= 50
    asked = server.stats()["total"]
    synthmill(*run, "--workers", 2, cwd=tmp_path)
    assert tables(tmp_path / "store") == tables(tmp_path / "alone")
    assert (server.stats()["unique"], server.stats()["total"]) == (asked, 2 * asked)
