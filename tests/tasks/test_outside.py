"""Stages from outside the tree: each kind, what is wrong with one in one line, and keys by source and settings."""

import os
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped, Instruction
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store, read_artifact, read_dropped, read_part
from synthmill.tasks.frames import ArtifactId, FrameStage, StageContext, run_locally
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.outside import load_stage, stage_settings
from synthmill.tasks.running.parallel import RayPool
from synthmill.tasks.running.stages import ingest, run_stage
from synthmill.tasks.running.table_source import ingest_memory
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.tasks.stages import in_process

CONTEXT = StageContext(Path(), run_locally, {})
TABLE = pa.table({"id": ["a", "b", "c"], "text": ["one", "two", "three"], "tags": [["x"], [], None]})

MINE = """
from __future__ import annotations

from typing import ClassVar, TypedDict

import polars as pl

import words
from synthmill.schemas.calls import Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction
from synthmill.tasks.frames import FrameStage, OneArtifact
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe


class Counted(TypedDict):
    id: str
    text: str
    letters: int


def shorten(row: dict, most: int = 3):
    if row["text"] == "two":
        raise Drop("too_even: two")
    if row["text"] == "three":
        return None
    row["text"] = words.loud(row["text"][:most])
    return row


def divide(row: dict):
    return {**row, "score": 1 / (row["text"] != "two")}


def count(row: dict) -> Counted | None:
    return {"id": row["id"], "text": row["text"], "letters": len(row["text"])}


def lengths(frame: pl.DataFrame, add: int = 0):
    return frame.with_columns(length=pl.col("text").str.len_chars() + add)


def longest(frame):
    kept = frame.filter(pl.col("text").str.len_chars() == pl.col("text").str.len_chars().max())
    return kept, frame.join(kept, on="id", how="anti").select("id", reason=pl.lit("short"))


class CleanHTML(FrameStage):
    adds: ClassVar = ("clean",)
    against: OneArtifact = ("", "")
    mark: str = "!"

    def others(self):
        return (self.against,) if self.against[1] else ()

    def apply(self, frame, store):
        return frame.with_columns(clean=pl.col("text") + self.mark), []


class Ask(Recipe[Instruction, Instruction]):
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"ask/once": ()}
    turns: int = 1

    def requests_per_row(self) -> int:
        return self.turns

    def steps(self, row):
        text = row.prompt
        for _ in range(self.turns):
            messages = load("ask/once").render(row=row, text=text)
            [completion] = yield [Request(role="teacher", messages=messages, sampling=self.sampling)]
            text = completion.text
        return Instruction.child_of(row, self.name, prompt=text)
"""
WORDS = "def loud(text):\n    return text.upper()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompts" / "ask").mkdir(parents=True)
    (tmp_path / "prompts" / "ask" / "once.jinja").write_text("{% block user %}Again: {{ text }}{% endblock %}")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "words.py").write_text(WORDS)
    return tmp_path


def stage_of(folder: Path, name: str, **fields: Any) -> Any:
    return load_stage(f"./mine.py:{name}", fields, folder)


def written(folder: Path, text: str, name: str = "work", **fields: Any) -> Any:
    (folder / "other.py").write_text(f"import polars as pl\n{text}\n")
    return load_stage(f"./other.py:{name}", fields, folder)


def key(stage: Any) -> str:
    return Planned(stage, {"teacher": EngineSettings(spec="openai:m")}, "source").key


def test_a_row_function_is_a_stage(folder: Path) -> None:
    stage = stage_of(folder, "shorten", most=2)
    output, dropped = stage.run_on(TABLE, CONTEXT)
    assert output.to_pylist() == [{"id": "a", "text": "ON", "tags": ["x"]}] and output.schema == TABLE.schema
    assert dropped == [
        Dropped(id="b", reason="too_even", detail="two"),
        Dropped(id="c", reason="returned_none"),
    ]
    assert (stage.name, stage.version, stage.whole, stage.needs) == ("shorten", "1", False, ("id",))
    assert stage.identity({})["settings"] == {"most": 2}


def test_a_bug_drops_its_row_and_names_the_place(folder: Path) -> None:
    line = MINE.splitlines().index('    return {**row, "score": 1 / (row["text"] != "two")}') + 1
    output, [dropped] = stage_of(folder, "divide").run_on(TABLE, CONTEXT)
    assert output["id"].to_pylist() == ["a", "c"] and output["score"].type == pa.float64()
    assert dropped == Dropped(
        id="b", reason="stage_error", detail=f"ZeroDivisionError: division by zero (mine.py:{line})"
    )


def test_a_return_type_is_the_schema(folder: Path) -> None:
    stage = stage_of(folder, "count")
    assert stage.output_columns(TABLE.schema) == pa.schema(
        [("id", pa.string()), ("text", pa.string()), ("letters", pa.int64())]
    )
    assert stage.run_on(TABLE, CONTEXT)[0].schema == stage.output_columns(TABLE.schema)
    scores = "def work(row: dict) -> dict[str, float]:\n    return {'id': row['id'], 'score': 1}"
    assert written(folder, scores).run_on(TABLE, CONTEXT)[0]["score"].type == pa.float64()


def test_a_frame_function_is_a_stage(folder: Path) -> None:
    stage = stage_of(folder, "lengths", add=1)
    assert stage.run_on(TABLE, CONTEXT)[0]["length"].to_pylist() == [4, 4, 6]
    assert stage.output_columns(TABLE.schema).field("length").type == pa.uint32()
    kept, dropped = stage_of(folder, "longest").run_on(TABLE, CONTEXT)
    assert kept["id"].to_pylist() == ["c"]
    assert dropped == [Dropped(id="a", reason="short"), Dropped(id="b", reason="short")]
    unknown = stage.output_columns(pa.schema([("id", pa.string())]))
    assert unknown == pa.schema([("id", pa.null())])
    whole = stage_of(folder, "longest", whole=True, rows_per_part=2)
    assert whole.whole and whole.parts_begin(TABLE) == [0, 2]
    assert key(whole) != key(stage_of(folder, "longest"))
    assert key(stage_of(folder, "longest", rows_per_part=5)) == key(stage_of(folder, "longest"))


def test_a_frame_stage_keeps_its_name_settings_and_references(folder: Path) -> None:
    stage = stage_of(folder, "CleanHTML", mark="?", against=ArtifactId("rows", "k", "bench"))
    assert isinstance(stage, FrameStage) and stage.name == "clean_html" and stage.adds == ("clean",)
    assert stage.others() == (("rows", "k"),)
    assert stage.identity({})["settings"] == {"against": ["rows", "k"], "mark": "?"}
    output, _ = pickle.loads(pickle.dumps(stage)).run_on(TABLE, CONTEXT)
    assert output["clean"].to_pylist() == ["one?", "two?", "three?"]
    assert {"against", "mark"} == set(stage_settings("./mine.py:CleanHTML", folder).model_fields)


def test_a_recipe_keeps_its_roles_prompts_and_steps(folder: Path) -> None:
    stage = pickle.loads(pickle.dumps(stage_of(folder, "Ask", turns=2)))
    assert isinstance(stage, Recipe) and (stage.name, stage.roles) == ("ask", ("teacher",))
    assert (stage.requests_per_row(), stage.takes, stage.needs_roles()) == (2, Instruction, ("teacher",))
    steps = stage.steps(Instruction(id="a", prompt="Hello"))
    [request] = next(steps)
    assert request.messages[0].content == "Again: Hello"
    [request] = steps.send([Completion(text="Hi")])
    assert request.messages[0].content == "Again: Hi"
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="Ho")])
    assert (done.value.value.prompt, done.value.value.parent_id) == ("Ho", "a")


def test_the_example_of_the_guide_is_two_stages(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    [text] = re.findall(r"```python\n(from typing import TypedDict.*?)```", guide, re.S)
    (tmp_path / "mine.py").write_text(text)
    table = pa.table({"id": ["a", "b", "c"], "text": ["One two\nthree", " ", "Four"]})
    titled, [dropped] = stage_of(tmp_path, "title", most=3).run_on(table, CONTEXT)
    assert titled.to_pylist() == [{"id": "a", "title": "One", "words": 3}, {"id": "c", "title": "Fou", "words": 1}]
    assert dropped == Dropped(id="b", reason="empty_text")
    kept, dropped = stage_of(tmp_path, "longest", count=1, whole=True).run_on(titled, CONTEXT)
    assert (kept["id"].to_pylist(), dropped) == (["a"], [Dropped(id="c", reason="short")])


def test_a_prompt_that_is_not_declared_is_refused(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE.replace('{"ask/once": ()}', "{}"))
    with pytest.raises(InputError, match="ask/once is not among the stage's prompts"):
        next(stage_of(folder, "Ask").steps(Instruction(id="a", prompt="x")))


def test_an_installed_module_is_one_place_of_stages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "kit_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "marks.py").write_text("MARK = '.'\n")
    (package / "clean.py").write_text(
        "from .marks import MARK\ndef end(row: dict):\n    return {**row, 'text': row['text'] + MARK}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    stage = load_stage("kit_of_tests.clean:end", {})
    assert stage.run_on(TABLE, CONTEXT)[0]["text"].to_pylist() == ["one.", "two.", "three."]  # type: ignore[union-attr]
    (package / "marks.py").write_text("MARK = ':'\n")
    with pytest.raises(InputError, match="has changed since this process imported it; start a new one"):
        load_stage("kit_of_tests.clean:end", {})


def test_keys_change_with_source_and_settings_only(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = {name: key(stage_of(folder, name)) for name in ("shorten", "lengths", "CleanHTML", "Ask")}
    assert key(stage_of(folder, "shorten", most=3)) == first["shorten"]
    assert key(stage_of(folder, "shorten", most=4)) != first["shorten"]
    assert key(stage_of(folder, "CleanHTML", mark="?")) != first["CleanHTML"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in ("mine.py", "words.py", "prompts/ask/once.jinja"):
        (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / path).write_text((folder / path).read_text())
    (elsewhere / "unrelated.py").write_text("1 / 0")
    (elsewhere / "prompts" / "unrelated.jinja").write_text("x")
    assert {name: key(stage_of(elsewhere, name)) for name in first} == first
    (elsewhere / "prompts" / "ask" / "once.jinja").write_text("{% block user %}{{ text }}{% endblock %}")
    assert [name for name in first if key(stage_of(elsewhere, name)) != first[name]] == ["Ask"]
    (elsewhere / "words.py").write_text(WORDS + "\n")
    assert all(key(stage_of(elsewhere, name)) != first[name] for name in first)
    output, _ = stage_of(elsewhere, "shorten").run_on(TABLE, CONTEXT)
    (elsewhere / "words.py").write_text(WORDS.replace("upper", "title"))
    assert output["text"].to_pylist() == ["ONE"]
    assert stage_of(elsewhere, "shorten").run_on(TABLE, CONTEXT)[0]["text"].to_pylist() == ["One"]
    assert stage_of(folder, "shorten").run_on(TABLE, CONTEXT)[0]["text"].to_pylist() == ["ONE"]
    (folder / "mine.py").write_text(MINE + "\n__version__ = '7'\n")
    assert stage_of(folder, "shorten").version == "7"


def test_nothing_of_a_users_modules_is_left_for_others(folder: Path) -> None:
    stage_of(folder, "shorten")
    assert "words" not in sys.modules and str(folder) not in sys.path


@pytest.mark.parametrize(
    ("spec", "fields", "fault"),
    [
        ("./none.py:f", {}, "there is no file"),
        ("./mine.py", {}, "names no stage; expected ./FILE.py:NAME or PACKAGE.MODULE:NAME"),
        ("no_such_package.module:f", {}, "the module no_such_package.module cannot be imported: ModuleNotFoundError"),
        ("no_such_module:f", {}, "there is no module no_such_module in Python's path"),
        ("./mine.py:shortn", {}, "mine.py has no shortn; it has shorten"),
        ("./mine.py:Counted", {}, "mine.py:Counted is the class Counted; expected a Recipe, a FrameStage, or a fun"),
        ("./mine.py:words", {}, "mine.py:words is of type module; expected a Recipe"),
        ("./mine.py:shorten", {"mots": 1}, "mine.py:shorten has no setting mots (did you mean most?); it takes most"),
        ("./mine.py:shorten", {"most": "x"}, "mine.py:shorten: most: Input should be a valid integer"),
        ("./mine.py:shorten", {"whole": True}, "has no setting whole"),
        ("./mine.py:CleanHTML", {"marks": ""}, "has no setting marks (did you mean mark?); it takes against, mark"),
    ],
)
def test_a_stage_that_cannot_be_loaded_says_why(folder: Path, spec: str, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as error:
        load_stage(spec, fields, folder)
    assert fault in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1 / 0", "other.py cannot be imported: ZeroDivisionError: division by zero (other.py:2)"),
        ("def work(", "other.py cannot be imported: SyntaxError: '(' was never closed (other.py:2)"),
        ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here' (other.py:2)"),
        ("raise SystemExit(3)", "SystemExit: 3 (other.py:2)"),
        ("import broken", "ValueError: no (broken.py:1)"),
        ("async def work(row): return row", "other.py:work is async or yields"),
        ("def work(): return 1", "other.py:work takes no rows"),
        ("def work(it): return it", "is it a row or a frame? annotate it as dict or as pl.DataFrame"),
        ("def work(row, *more): return row", "takes *more; expected parameters with names"),
        ("def work(row: pl.LazyFrame): return row", "takes LazyFrame; expected a row (dict) or a frame"),
        ("def work(frame, whole=1): return frame", "has a parameter whole, which every step with a frame function"),
        ("def work(row) -> dict[str, complex]: ...", "its return type has no Arrow form"),
        (
            "from synthmill.tasks.frames import FrameStage\nclass work(FrameStage): pass",
            "other.py:work is a FrameStage without apply",
        ),
        (
            "from synthmill.tasks.recipe import Recipe\nclass work(Recipe):\n    def steps(self, row): yield []",
            "is a Recipe that lacks its roles or rows",
        ),
    ],
)
def test_a_file_that_is_no_stage_says_why(folder: Path, text: str, fault: str) -> None:
    (folder / "broken.py").write_text("raise ValueError('no')\n")
    with pytest.raises(InputError) as error:
        written(folder, text)
    assert fault in error.value.message and "\n" not in error.value.message


ROW, FRAME = "def work(row: dict):\n    return ", "def work(frame: pl.DataFrame):\n    return "


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (ROW + "row['text']", "stage work: for 3 rows (a, b, c) it returned str; expected a dict, or None to drop"),
        (ROW + "{'text': 1}", "3 rows (a, b, c) it returned a row without id; return the whole row"),
        (ROW + "{**row, 'id': 'new'}", "it returned another id; keep it, or give the new row's parent_id"),
        (ROW + "{**row, 'id': row['text'][:1], 'parent_id': row['id']}", "1 row (t) came out twice"),
        (ROW + "{**row, 'n': 1 if row['id'] == 'a' else 'x'}", "column n holds int (row a) and str (row b)"),
        (ROW + "{**row, 'n': object}", "the row a holds type in the column n, which no table can hold"),
        (ROW + "{**row, 'n': {1}}", "the row a holds set in the column n"),
        (ROW + "{**row, 'n': {}}", "the column n holds nothing but empty dictionaries"),
        (ROW + "{**row, 3: 1}", "keys that are no text"),
        (
            "from typing import TypedDict\nclass N(TypedDict):\n    n: int\ndef work(row: dict) -> N:\n"
            "    return {'id': row['id'], 'n': 'x'}",
            "the row a holds 'x' in the column n; its function declares int64",
        ),
        (FRAME + "frame.filter(pl.col('id') != 'b')", "it lost 1 row (b) of 3; return (kept, dropped)"),
        (FRAME + "frame.drop('id')", "it returned no column id (found text, tags); keep it"),
        (FRAME + "pl.concat([frame, frame])", "3 rows (a, b, c) came out twice"),
        (FRAME + "frame.with_columns(id=1)", "its ids are of type int32; expected text"),
        (FRAME + "frame.with_columns(id=pl.lit(None, pl.String))", "3 of its rows have no id"),
        (FRAME + "frame.lazy()", "it returned LazyFrame; expected a polars DataFrame, or (kept, dropped)"),
        (FRAME + "frame, [1]", "what it drops cannot be read"),
        (FRAME + "frame, frame.select('id', reason=pl.lit('x')).head(1)", "1 row (a) came out twice"),
        (FRAME + "frame, pl.DataFrame({'id': ['z'], 'reason': ['x']})", "it dropped 1 row (z) that it did not get"),
        (FRAME + "frame.with_columns(n=pl.Series([{1}] * 3, dtype=pl.Object))", "the column n is of type Object"),
        (FRAME + "frame.select('id', n=pl.col('none'))", "stage work: ColumnNotFoundError: "),
        (FRAME + "1 / 0", "stage work: ZeroDivisionError: division by zero (other.py:3)"),
    ],
)
def test_what_a_stage_must_not_do_is_one_line(folder: Path, text: str, fault: str) -> None:
    with pytest.raises(InputError) as error:
        written(folder, text).run_on(TABLE, CONTEXT)
    assert fault in error.value.message and "\n" not in error.value.message


def test_columns_that_it_needs_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="stage work needs the columns body; found id, text, tags"):
        written(folder, FRAME + "frame\nwork.needs = ('id', 'body')").run_on(TABLE, CONTEXT)


def test_types_are_kept_where_nothing_is_lost(folder: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "small": pa.array([1, 2], pa.int8()),
            "when": pa.array([0, 1], pa.timestamp("ms")),
            "half": pa.array([1, 3]),
            "lists": pa.array([["x"], []], pa.list_(pa.string())),
        }
    )
    text = ROW + "{**row, 'half': row['half'] / 2, 'lists': [], 'small': None}"
    output, _ = written(folder, text).run_on(table, CONTEXT)
    assert [str(field.type) for field in output.schema] == [
        "string",
        "int8",
        "timestamp[ms]",
        "double",
        "list<item: string>",
    ]
    categories = FRAME + "frame.with_columns(kind=pl.Series(['x', 'y', 'x'], dtype=pl.Categorical))"
    assert written(folder, categories).run_on(TABLE, CONTEXT)[0]["kind"].type == pa.large_string()


def made(store: Store, stage: Any, table: pa.Table, pool: Any, rows_per_part: int = 2) -> Any:
    source = ingest_memory(store, table, rows_per_part, "run")
    return run_stage(store, Planned(stage, {}, source.key), source, pool, "run")


def test_parts_are_brought_to_one_schema(folder: Path, store: Store) -> None:
    table = pa.table({"id": list("abcdef"), "n": [0, 0, 1, 2, 3, 4]})
    stage = written(folder, ROW + "{**row, **({'much': str(row['n'])} if row['n'] > 2 else {}), 'few': None}")
    with in_process(store) as pool:
        manifest = made(store, stage, table, pool)
        again = made(store, stage, table, pool)
    assert again == manifest and manifest.columns == {"id": "string", "n": "int64", "few": "null", "much": "string"}
    assert len({read_part(store, seal).schema for seal in manifest.parts}) == 1
    assert read_artifact(store, manifest)["much"].to_pylist() == [None, None, None, None, "3", "4"]
    with in_process(store) as pool, pytest.raises(InputError) as error:
        made(store, written(folder, ROW + "{**row, 'x': row['n'] if row['n'] < 3 else 'many'}"), table, pool)
    assert "stage work: the column x is int64 in some parts and string in part 3" in error.value.message


def test_a_part_without_rows_and_a_whole_function(folder: Path, store: Store) -> None:
    table = pa.table({"id": list("abcd"), "n": [0, 0, 1, 2]})
    text = "def work(row: dict):\n    return {'id': row['id'], 'm': 5 // row['n']}"
    with in_process(store) as pool:
        manifest = made(store, written(folder, text), table, pool)
        top = FRAME + "frame.with_columns(top=pl.col('n') == pl.col('n').max())"
        whole = made(store, written(folder, top, whole=True, rows_per_part=3), table, pool)
        apart = made(store, written(folder, top), table, pool)
    assert (manifest.rows, manifest.dropped) == (2, {"stage_error": 2})
    assert [row.id for row in read_dropped(store, manifest.parts[0])] == ["a", "b"]
    assert read_artifact(store, manifest)["m"].to_pylist() == [5, 2]
    assert read_artifact(store, whole)["top"].to_pylist() == [False, False, False, True]
    assert [seal.rows for seal in whole.parts] == [3, 1]
    assert read_artifact(store, apart)["top"].to_pylist() == [True, True, False, True]


def test_a_file_that_changed_since_the_plan_is_refused(folder: Path, store: Store) -> None:
    stage = pickle.dumps(stage_of(folder, "count"))
    (folder / "mine.py").write_text(MINE + "\n")
    from synthmill.tasks.running import outside_definitions

    outside_definitions.loaded.cache_clear()  # as in a worker that has not loaded it yet
    with pytest.raises(InputError, match=r"mine.py on \S+ is not what it was when this run was planned"):
        pickle.loads(stage).run_on(TABLE, CONTEXT)
    (folder / "mine.py").unlink()
    with pytest.raises(InputError, match=r"there is no file .*mine.py; .* \(on \S+\)"):
        pickle.loads(stage).run_on(TABLE, CONTEXT)


@pytest.fixture
def two_workers(store: Store) -> Iterator[RayPool]:
    pool = RayPool(store, "run", threading.Event(), 2, None)
    yield pool
    pool.close()


@pytest.mark.ray
def test_workers_load_the_file_themselves(folder: Path, store: Store, server: ChatServer, two_workers: RayPool) -> None:
    """Their processes are none of ours, and they say which file they read; what travels names it, and nothing else."""
    text = (
        "import os, sys, time, words\n"
        "def work(row: dict):\n"
        "    time.sleep(0.2)\n"
        "    return {**row, 'worker': os.getpid(), 'file': __file__, 'module': __name__, 'text': words.loud('x')}\n"
    )
    stage = written(folder, text)
    assert b"sleep" not in pickle.dumps(stage) and str(folder).encode() in pickle.dumps(stage)
    table = pa.table({"id": [f"row{n}" for n in range(8)]})
    manifest = made(store, stage, table, two_workers, 1)
    rows = pl.DataFrame(pl.from_arrow(read_artifact(store, manifest)))
    assert rows["worker"].n_unique() == 2 and os.getpid() not in rows["worker"]
    assert set(rows["file"]) == {str(folder / "other.py")} and set(rows["text"]) == {"X"}

    source = ingest(store, SourceSettings(path=str(write_jsonl(folder / "in.jsonl", prompts(4)))), 2, "run")
    roles = {"teacher": EngineSettings(spec=server.spec, concurrency=4)}
    asked = run_stage(store, Planned(stage_of(folder, "Ask"), roles, source.key), source, two_workers, "run")
    assert (asked.rows, server.stats()["total"]) == (4, 4)
    assert asked.identity["prompts"].keys() == {"ask/once"}

    planned = Planned(written(folder, text.replace("0.2", "0.1")), {}, manifest.key)
    (folder / "words.py").write_text(WORDS.replace("upper", "lower"))
    with pytest.raises(InputError, match=r"other.py on \S+ is not what it was when this run was planned"):
        run_stage(store, planned, manifest, two_workers, "run")
