"""What may be wrong with a pipeline: one clear line, exit code 2, nothing asked, nothing lost."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthmill.flows.making.make import run_plan
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.running import table_source
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl

HEAD = """
source: {rows: 8}
engines: {teacher: "openai:local-model@http://127.0.0.1:9/v1"}
workers: 0
"""
FILTER = "steps:\n  a: {stage: filter, where: 'true'}\n"
ASK = "steps:\n  a: {stage: ask, prompt: why, %s}\n"
FAULTS = {
    "a cycle": (
        "steps:\n  a: {stage: filter, from: b, where: 'true'}\n  b: {stage: filter, from: a, where: 'true'}\n",
        "steps.a: its rows would come from itself (a from b from a); begin one of them elsewhere",
    ),
    "a step that comes later": (
        "steps:\n  a: {stage: filter, from: b, where: 'true'}\n  b: {stage: sort, from: source, by: id}\n",
        "steps.a: from names b, which comes at or behind this step; write b before it",
    ),
    "a mapping that does not end": (
        "steps:\n  a: {stage: filter\n",
        "my.yaml is not valid YAML: line 7: expected ',' or '}', but got '<stream end>' (while parsing a flow",
    ),
    "a word that is no form": (
        ASK % "answer: {x: txt}",
        "'txt' is no form of a value; did you mean 'text'? expected one of text, string, integer, number, boolean, [",
    ),
    "a stage that is none": (
        "steps:\n  a: {stage: fliter, where: 'true'}\n",
        "steps.a: no stage is called 'fliter'; the nearest: filter, filtered",
    ),
    "from names two": (
        "steps:\n  a: {stage: filter, from: [source], where: 'true'}\n",
        "steps.a: from holds ['source']; expected the id of a source or of an earlier step",
    ),
    "two tables of one name": (FILTER + "publish:\n  x: {}\n  x: {}\n", "x stands twice, the second time in line 9"),
    "a table with a path as its name": (
        FILTER + "publish: {x/../../y: {}}\n",
        "'x/../../y' is no id; expected letters",
    ),
    "a form that is none": (
        ASK % "answer: {g: {type: strnig}}",
        "steps.a: answer: g: the type 'strnig' makes no column",
    ),
    "a form without fields": (ASK % "answer: [1, 2]", "steps.a: answer: [1, 2] names no fields; expected new columns"),
    "a prompt cut off": (
        'steps:\n  a: {stage: ask, prompt: "why\\n{% if id %}\\n{{ id "}\n',
        "steps.a: prompt: line 3: unexpected end of template",
    ),
    "a prompt's file cut off": (
        "steps:\n  a: {stage: ask, prompt: ./q.jinja}\n",
        "steps.a: prompt: ./q.jinja, line 3: unexpected end of template",
    ),
    "a prompt's variable": (
        "steps:\n  a: {stage: ask, prompt: 'why {{ topic }}'}\n",
        "steps.a: ask: prompt, line 1: 'topic' is no column; expected one of id",
    ),
    "a file that cannot be imported": (
        "steps:\n  a: {stage: './broken.py:Clean'}\n",
        "broken.py cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name' (broken.py:1)",
    ),
    "a file that is not there": ("steps:\n  a: {stage: './gone.py:Clean'}\n", "gone.py; expected a Python file"),
    "no expression": ("steps:\n  a: {stage: filter, where: 'len('}\n", "steps.a: 'len(' is no SQL expression"),
    "an id with a path in it": (
        "steps:\n  a b/../c: {stage: filter, where: 'true'}\n",
        "steps: 'a b/../c' is no id; expected letters, digits, _ and -, and a letter first",
    ),
    "an empty id": ("steps:\n  '': {stage: filter, where: 'true'}\n", "steps: '' is no id"),
    "a number as id": ("steps:\n  1: {stage: filter}\n", "steps: 1 is no id; write it in quotes (YAML reads yes, no"),
    "yes as id": ("steps:\n  yes: {stage: filter}\n", "steps: True is no id; write it in quotes (YAML reads yes, no"),
    "nothing as id": ("steps:\n  ~: {stage: filter}\n", "steps: None is no id"),
    "a number as a table": (FILTER + "publish: {1: {}}\n", "publish: 1 is no id"),
    "a source's id": (FILTER + "sources: {x y: {rows: 3}}\n", "sources: 'x y' is no id"),
    "no steps": ("steps: {}\n", "steps: there are no steps; expected id: {stage: NAME, ...}"),
    "steps left open": ("steps:\n", "steps: there are no steps; expected id: {stage: NAME, ...}"),
    "a list of steps": ("steps: [{stage: filter}]\n", "steps: there are no steps; expected id: {stage: NAME, ...}"),
    "a step left open": ("steps:\n  a:\n", "steps: a names no stage; expected a: {stage: NAME, ...}"),
    "a step that is a word": ("steps: {a: filter}\n", "steps: a names no stage; expected a: {stage: NAME, ...}"),
}


@pytest.mark.parametrize(("steps", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line(steps: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "q.jinja").write_text("a\nb\n{{ x\n")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "my.yaml").write_text(HEAD + steps)
    check_refused(tmp_path, fault)


SOURCES = {
    "empty": ("in.jsonl", "", "in.jsonl has no rows that can be read; expected one object with columns per row"),
    "a head only": ("in.csv", "a,b\n", "in.csv has no rows that can be read"),
    "mixed types": (
        "in.jsonl",
        '{"x": 1}\n{"x": "two"}\n{"x": [3]}\n',
        "in.jsonl: the column 'x' holds values of different types (int, list, str); expected one type per column",
    ),
    "not there": ("gone.jsonl", None, "gone.jsonl is not there; expected a file that ends in .jsonl"),
}


@pytest.mark.parametrize(("name", "text", "fault"), SOURCES.values(), ids=SOURCES)
def test_a_source_that_holds_nothing_usable_is_one_line(
    name: str, text: str | None, fault: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    (tmp_path / "my.yaml").write_text(HEAD.replace("{rows: 8}", name) + FILTER)
    check_refused(tmp_path, fault)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("steps.x.value=3", "steps: x names no stage; expected x: {stage: NAME, ...}"),
        ("steps.a.wheer=id", "steps.a: wheer: the stage filter has no such setting; it has rows_per_part, where"),
        ("steps=3", "steps: there are no steps; expected id: {stage: NAME, ...}"),
        ("steps.a=3", "steps: a names no stage"),
        ("publish.x.from=b", "publish.x: from names 'b'; expected one of source, a"),
    ],
)
def test_a_fault_on_the_command_line_is_one_line(setting: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(HEAD + FILTER)
    check_refused(tmp_path, fault, "--set", setting)


def check_refused(folder: Path, fault: str, *arguments: str) -> None:
    out, err = synthmill("run", "my.yaml", *arguments, cwd=folder, expect=2)
    [line] = err.splitlines()
    assert line.startswith("error: ") and fault in line and not out
    assert not (folder / "store" / "runs").exists() or not list((folder / "store" / "runs").iterdir())


def test_a_thousand_steps_are_planned_in_seconds(tmp_path: Path) -> None:
    steps = {f"s{number}": {"stage": "sample_rows", "share": 0.9, "seed": number} for number in range(1000)}
    (tmp_path / "my.yaml").write_text(HEAD + yaml.safe_dump({"steps": steps}, sort_keys=False))
    started = time.monotonic()
    settings = read_settings(PipelineSettings, tmp_path / "my.yaml", {"store": str(tmp_path / "store")})
    assert len(plan(settings).stages) == 1000
    assert time.monotonic() - started < 60  # 2 seconds on a machine of one's own


def rows(start: int, end: int, column: str = "t") -> list[dict[str, Any]]:
    return [{"id": f"r{number}", column: f"thing {number}"} for number in range(start, end)]


def plan_in(folder: Path, server: ChatServer) -> Any:
    steps = {"q": {"stage": "ask", "prompt": "say {{ t }}"}, "f": {"stage": "filter", "where": "true"}}
    settings = {"source": "in.jsonl", "workers": 0, "engines": {"teacher": server.spec}, "steps": steps}
    return plan(read_settings(PipelineSettings, None, settings | {"store": str(folder / "store")}))


def test_a_source_that_changes_is_read_as_it_is_and_what_was_answered_stays(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", rows(0, 10))
    before = plan_in(tmp_path, server)
    write_jsonl(tmp_path / "in.jsonl", rows(5, 20))  # after it was planned
    assert run_plan(lambda: before).stages[-1].rows == 15
    assert not before.is_done()
    record = run_plan(lambda: plan_in(tmp_path, server))
    assert record.stages[-1].rows == server.stats()["total"] == 15
    write_jsonl(tmp_path / "in.jsonl", rows(0, 10))
    assert run_plan(lambda: before).stages[-1].rows == 10
    assert server.stats()["total"] == 20 and before.is_done()


def test_a_source_that_changes_while_it_is_read_is_no_artifact(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", rows(0, 10))
    planned = plan_in(tmp_path, server)
    read = table_source.read_table_parts

    def read_slowly(*arguments: Any) -> Any:
        for part in read(*arguments):
            write_jsonl(tmp_path / "in.jsonl", rows(0, 9))
            yield part

    monkeypatch.setattr(table_source, "read_table_parts", read_slowly)
    with pytest.raises(InputError, match=r"in\.jsonl changed while it was read; run the same command again"):
        planned.source.ingest("run")
    assert not (tmp_path / "store" / "artifacts" / "rows").exists()
