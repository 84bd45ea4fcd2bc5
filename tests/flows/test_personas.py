"""The method `personas`: what a persona is asked for, what is dealt, and whole, with attributes of one's own."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from synthmill.flows.methods.personas import PersonaSettings, PersonaTasks
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import TableRow
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl

ROW = TableRow(id="r", values={"persona": "a miller", "kind": "a riddle", "tone": "curt", "age": 40, "city": None})


def test_a_persona_is_shown_with_its_attributes() -> None:
    steps = PersonaTasks().steps(ROW)
    [ask] = next(steps)
    text = ask.messages[-1].content
    assert (
        "A person: a miller\nTone: curt\nAge: 40\n" in text
        and "assistant: a riddle, out" in text
        and "City" not in text
    )
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="<begin> What turns and grinds? </end>")])
    assert (done.value.value.id, done.value.value.prompt) == ("r", "What turns and grinds?")
    [other] = next(PersonaTasks().steps(ROW.model_copy(update={"id": "s"})))
    assert other.messages == ask.messages and other.sample != ask.sample


@pytest.mark.parametrize(
    ("text", "fault"),
    [("I am A  Miller, so what now?", "persona_given_back"), ("a miller", "shot_given_back"), ("", "no_prompt")],
)
def test_what_only_says_who_asks_is_no_prompt(text: str, fault: str) -> None:
    steps = PersonaTasks(attempts=1).steps(ROW)
    next(steps)
    with pytest.raises(Drop, match=fault):
        steps.send([Completion(text=f"<begin> {text} </end>")])


def test_rows_without_a_persona_and_names_that_are_taken() -> None:
    with pytest.raises(Drop, match="no_persona"):
        next(PersonaTasks().steps(TableRow(id="r", values={"persona": None, "kind": "a riddle"})))
    with pytest.raises(InputError, match="needs the column kind"):
        PersonaTasks().read(pa.table({"id": ["r"], "persona": ["a miller"]}))
    with pytest.raises(ValueError, match="'source' is a column of this method already"):
        PersonaSettings.model_validate({"personas": "p.jsonl", "attributes": {"source": ["a"]}})


def test_whole(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"persona": f"person {n}", "note": n} for n in range(3)])
    (tmp_path / "run.yaml").write_text(
        f"personas: p.jsonl\nengines: {{teacher: '{server.spec}'}}\nworkers: 0\noverlap: 1\n"
        "attributes: {level: [easy, hard], topic: {categories: {easy: [a], hard: [b, c]}, under: level}}\n"
        "dedup: {layers: [exact]}\n"
    )
    run = ("run", "personas", "--config", "run.yaml")
    out, _ = synthmill(*run, "--set", "count=6", cwd=tmp_path)
    assert "Prompts by level" in out and server.stats()["total"] == 2 * 6
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "data" / "*.parquet")
    assert rows["persona"].value_counts()["count"].to_list() == [2, 2, 2]
    assert rows["level"].value_counts()["count"].to_list() == [3, 3]
    assert rows["messages"].list.len().unique().to_list() == [2] and set(rows["source"]) == {"personas"}
    synthmill(*run, "--set", "count=8", cwd=tmp_path)
    assert server.stats()["total"] == 2 * 8
    out, _ = synthmill(*run, "--set", "count=8", "--set", "respond=false", cwd=tmp_path)
    assert server.stats()["total"] == 2 * 8 and "prompt: " in out
