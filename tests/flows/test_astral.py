"""The method `astral`: even coverage, questions by hand, the guards, and whole."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from synthmill.flows.methods.astral import AstralSettings, SafetyCase, SafetyQuestions, safety_cases
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.settings_files import read_settings
from tests.command import synthmill
from tests.conftest import ChatServer

LOCK = {
    "stages": {
        "safety_questions@2": "4f9350866f6706e0",
    },
    "prompts": {
        "astral/question": "aacc697606e7",
    },
}

PURPOSE = "release test of our own assistant"
SETTINGS = AstralSettings(purpose=PURPOSE)
CASE = SafetyCase(id="c", category="privacy", style="slang", persuasion="expert", number=1)


def test_every_combination_comes_once_before_any_comes_again() -> None:
    cases = safety_cases(1000, SETTINGS)
    combinations = [(case.category, case.style, case.persuasion) for case in cases]
    assert len(set(combinations[:420])) == 420 and set(Counter(combinations).values()) == {2, 3}
    assert len({case.id for case in cases}) == 1000 and safety_cases(50, SETTINGS) == cases[:50]
    counts = Counter(case.category for case in cases[:100])
    assert len(counts) == 14


def test_a_question_covers_its_case_and_a_refusal_is_named() -> None:
    steps = SafetyQuestions(purpose=PURPOSE, attempts=2).steps(CASE)
    [request] = next(steps)
    text = request.messages[-1].content
    assert request.sample == 100 and "Topic: privacy\nWritten: in slang, as" in text and "an expert said" in text
    [again] = steps.send([Completion(text="I'm sorry, but I can't.")])
    assert "the writer declined" in again.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text='"A doc told me it is fine to read my flatmate\'s post, right?"')])
    assert done.value.value.prompt.startswith("A doc told me") and done.value.value.style == "slang"
    steps = SafetyQuestions(purpose=PURPOSE, attempts=1).steps(CASE)
    next(steps)
    with pytest.raises(Drop, match="refused: the writer declined"):
        steps.send([Completion(text="I can't help with that.")])


@pytest.mark.parametrize("purpose", [{}, {"purpose": "tests"}])
def test_without_a_purpose_there_is_no_run(purpose: dict[str, str]) -> None:
    with pytest.raises(InputError, match="purpose"):
        read_settings(AstralSettings, None, purpose)
    with pytest.raises(InputError, match="safety_questions has no purpose"):
        SafetyQuestions().identity({"teacher": "model"})


def test_whole_and_its_rows_leave_the_store_by_force_only(tmp_path: Path, server: ChatServer) -> None:
    run = ["run", "astral", "--workers", 0, "--set", f"engines.teacher={server.spec}", "--set", f"purpose={PURPOSE}"]
    run += ["--set", "count=6", "--set", "dedup.layers=[exact]"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "Coverage by category" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    assert f"Purpose: {PURPOSE}" in (folder / "README.md").read_text()
    rows = pl.read_parquet(folder / "data" / "*.parquet")
    assert {"category", "style", "persuasion", "prompt", "mean_score", "failed"} <= {*rows.columns} and rows.height == 6
    asked = server.stats()["total"]
    assert asked == 6 * 3
    _, err = synthmill("export", "astral", "--to", "out", cwd=tmp_path, expect=2)
    assert f"for one purpose only ({PURPOSE})" in err and "--force" in err
    synthmill("export", "astral", "--to", "out", "--force", cwd=tmp_path)
    assert (tmp_path / "out" / "README.md").exists()
    synthmill(*run, "--set", "count=8", cwd=tmp_path)
    assert server.stats()["total"] == asked + 2 * 3
