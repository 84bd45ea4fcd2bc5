"""Judging on a bench: reading scores, asking again, and means with scores missing."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.multifaceted import BenchRow, JudgedRow, Rubric, Value
from synthmill.schemas.rows import to_arrow
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.plain_files.lines import Line
from synthmill.storage.plain_files.rows import BENCH
from synthmill.tasks.generators.multifaceted.bench import BenchScores, Judged, bench_results, summarize_runs
from synthmill.tasks.scorers.verdicts import parse_score

RUBRICS = tuple(Rubric(criteria=f"Is it {w}?", score_descriptions=("a", "b", "c", "d", "e")) for w in ("short", "true"))
VALUES = tuple(
    Value(dimension=name, subdimension="s", preference="p", description="d", origin="seed")
    for name in ("style", "harm")
)
ROW = BenchRow(
    id="b", prompt="Why?", system="Be brief.", reference_answer="Because.", rubrics=RUBRICS, preference_set=VALUES
)
KNOWN = [
    ("Good job. [RESULT] 3", 3),
    ("Needs improvement. [RESULT] Score: 2", 2),
    ("Well done. [RESULT] Result: 4", 4),
    ("Average. [RESULT] 4/5", 4),
    ("Excellent. [RESULT] 5 out of 5", 5),
    ("Poor performance. [RESULT] score of 1", 1),
    ("Good job. [Result] 3", 3),
    ("Needs improvement. [Result] Score: 2", 2),
    ("Well done. [Result] Result: 4", 4),
    ("Average. [Result] 4/5", 4),
    ("Excellent. [Result] 5 out of 5", 5),
    ("Poor performance. [Result] score of 1", 1),
    ("Good job. [3]", 3),
    ("Good job. (Score 5)", 5),
    ("Good job. [Score 4]", 4),
    ("Good job. score: 3", 3),
    ("Good job. Score: 3", 3),
    ("Good job. score of 1", 1),
    ("Good job. [RESULT] (5)", 5),
]


@pytest.mark.parametrize(("text", "score"), KNOWN)
def test_the_known_cases_are_read(text: str, score: int) -> None:
    assert parse_score(text)[1] == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("A score of 3 would need examples. [RESULT] 2", 2),
        ("A score of 5 for style. Final score: 4.", 4),
        ("[RESULT] **4**", 4),
        ("**[RESULT]: 5**", 5),
        ("[RESULT] The score is 4", 4),
        ("[RESULT] 5\n\nScore 1 means that nothing fits.", 5),
        ("[RESULT] 2 ... yes: [RESULT] 2", 2),
        ("End with [RESULT] and 1 to 5, [RESULT] (a whole number), [RESULT] 1 to 5. Well: [RESULT] 2", 2),
        ("It is 7 lines long and has 3 parts. Result (4/5)", 4),
        ("**Score:** 4", 4),
        ("[RESULT] 4 - it names every source", 4),
        ("[RESULT] 3, because two are missing", 3),
        ("[RESULT]\n4", 4),
        ("x\nResult: 12\nThat is right.\nScore: 5", 5),
        ("Clarity\nScore: 3\nDepth\nScore: 5\n\nOverall score: 4", 4),
        ("[RESULT]\n1. It is complete.\nIt is clear.\n[RESULT] 5", 5),
        ("[RESULT]" + " " * 100_000 + "4", 4),
        ("Score" + " " * 100_000 + "\nScore: 4", 4),
        ("[RESULT]" + "\n" * 100_000 + "four", None),
    ],
)
def test_the_verdict_is_read_and_not_a_number_before_it(text: str, score: int | None) -> None:
    if score is None:  # and at once
        with pytest.raises(Drop):
            parse_score(text)
    else:
        assert parse_score(text)[1] == score


@pytest.mark.parametrize(
    "text",
    ["Score: 10", "[RESULT] 0", "[RESULT] 6", "[RESULT] -3", "[RESULT] 4.5", "[RESULT] 3-4", "[RESULT] 3 or 4",
     "Score: 4/10", "[RESULT] 45", "[RESULT]", "", "I'd give it 4", "[RESULT] It fails. 2 of the wishes are met.",
     "[RESULT] four", "[RESULT] 3,5", "[RESULT] 2 of 4", "[RESULT] 3 (or 4)", "[RESULT] 5%",
     "The calculation's result is 4, which is wrong.", "[RESULT] 1 ... no: [RESULT] 2", "Score: 2\n\nScore: 4"],
)  # fmt: skip
def test_what_is_no_whole_number_from_one_to_five_is_refused(text: str) -> None:
    with pytest.raises(Drop):
        parse_score(text)


def test_feedback_is_what_stands_before_the_verdict() -> None:
    assert parse_score("Too long. [RESULT] 2") == ("Too long.", 2)
    assert parse_score("Too long, score: 2") == ("Too long, score: 2", 2)


def test_each_run_has_its_own_answers_and_judgements_one_per_rubric() -> None:
    steps = Judged(runs=2, attempts=2).steps(ROW)
    asked = next(steps)
    assert [(ask.role, ask.sample) for ask in asked] == [("student", 0), ("student", 1)]
    assert [m.content for m in asked[0].messages] == ["Be brief.", "Why?"]
    judged = steps.send([Completion(text="first"), Completion(text="second")])
    assert [(ask.role, ask.sample) for ask in judged] == [("judge", 0), ("judge", 0), ("judge", 100), ("judge", 100)]
    told = judged[2].messages[-1].content
    assert all(part in told for part in ("Be brief.\nWhy?", "second", "Because.", "Is it short?", "Score 5: e"))
    assert "Is it true?" not in told
    said = ("[RESULT] 2", "?", "x [RESULT] 9", "[RESULT] 4")
    again = steps.send([Completion(text=text) for text in said])
    assert [ask.sample for ask in again] == [1, 101]
    assert "it had no score" in again[0].messages[-1].content
    assert "its score was '9'" in again[1].messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="fine [RESULT] 5"), Completion(text="still nothing")])
    made: JudgedRow = done.value.value
    assert made.scores == ((2, 5), (None, 4))
    assert made.feedbacks == (("", "fine"), ("", ""))
    assert made.answers == ("first", "second")


def test_an_answer_that_could_not_be_had_has_no_scores() -> None:
    steps = Judged(runs=2, attempts=1).steps(ROW)
    next(steps)
    judged = steps.send([Completion(text="", error="engine_timeout: late"), Completion(text="ok")])
    assert len(judged) == 2
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="[RESULT] 2"), Completion(text="", error="engine_error: gone")])
    assert done.value.value.scores == ((None, None), (2, None))


def test_a_failing_judge_is_not_told_of_its_failure_and_a_cut_judgement_is_not_read() -> None:
    steps = Judged(runs=1, attempts=3).steps(ROW)
    next(steps)
    steps.send([Completion(text="an answer")])
    failed = Completion(text="", error="engine_error: HTTP 503 from 10.0.0.5")
    [again] = steps.send([failed, Completion(text="A score of 5 would need", finish_reason="length")])
    assert "it was cut" in again.messages[-1].content
    assert "503" not in again.messages[-1].content


def test_an_empty_answer_has_the_lowest_score() -> None:
    steps = Judged(runs=1).steps(ROW)
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text=" \n")])
        steps.send([])
    assert done.value.value.scores == ((1, 1),)


def judged(row_id: str, *runs: tuple[int | None, int | None]) -> JudgedRow:
    shared = ROW.model_dump(exclude={"id"})
    return JudgedRow(**shared, answers=("x",) * len(runs), scores=runs, feedbacks=((),) * len(runs), id=row_id)


def test_missing_scores_follow_the_stated_rule(tmp_path: Path) -> None:
    none = judged("d", (None, None), (None, None))
    rows = [none, judged("a", (4, 2), (5, 5)), judged("b", (1, None), (None, None)), judged("c", (None, None), (2, 4))]
    frame, dropped = BenchScores().apply(pl.DataFrame(to_arrow(JudgedRow, rows)), tmp_path)
    assert [(row.id, row.reason) for row in dropped] == [("d", "no_score")]
    assert frame["run_scores"].to_list() == [[3.0, 5.0], [1.0, None], [None, 3.0]]
    found = {result.name: result for result in bench_results(frame)}
    assert next(iter(found)) == "all rubrics"
    assert found["all rubrics"].runs == (2.0, 4.0)  # means of means: the pooled one of run 0 would be 7/3
    assert (found["all rubrics"].score, found["all rubrics"].missing) == (3.0, 2)
    assert found["all rubrics"].spread == pytest.approx(2**0.5)
    assert found["style"].runs == (2.5, 3.5)
    assert (found["harm"].runs, found["harm"].missing) == ((2.0, 4.5), 3)
    assert summarize_runs("x", [[3.0]]).spread is None
    assert summarize_runs("x", [[None, None]]).score is None


def bench_line(**fields: Any) -> Line:
    rubric = {"criteria": "Is it short?", "score_descriptions": {str(n): f"level {n}" for n in range(1, 6)}}
    value = {"dimension": "style", "subdimension": "s", "preference": "p", "description": "d"}
    row = {
        "prompt": "Why?",
        "system": "Be brief.",
        "reference_answer": "So.",
        "rubrics": [rubric],
        "preference_set": [value],
    }
    return Line("row-1", {**row, **fields})


def test_bench_rows_are_read_as_they_are_published() -> None:
    source = SourceSettings(path="bench.parquet")
    row = BENCH.read(bench_line(), source)
    assert isinstance(row, BenchRow)
    assert (row.system, row.reference_answer, row.rubrics[0].score_descriptions[4]) == ("Be brief.", "So.", "level 5")
    named = {"criteria": "x", "score_descriptions": {f"score{n}_description": f"level {n}" for n in (5, 4, 3, 2, 1)}}
    row = BENCH.read(bench_line(rubrics=[named], preference_set=None), source)
    assert isinstance(row, BenchRow)
    assert row.rubrics[0].score_descriptions[0] == "level 1"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rubrics": None}, "no_rubrics"),
        ({"rubrics": json.dumps([])}, "no_rubrics"),
        ({"rubrics": ["x"]}, "bad_rubric"),
        ({"rubrics": [{"criteria": "x", "score_descriptions": {"1": "a"}}]}, "bad_rubric"),
        ({"reference_answer": None}, "null_reference_answer"),
        ({"preference_set": [{"dimension": "style"}]}, "bad_preference_set"),
        ({"preference_set": [{}, {}]}, "bad_preference_set"),
        ({"prompt": ""}, "empty_prompt"),
    ],
)
def test_a_bad_bench_row_is_dropped_with_a_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(Drop) as dropped:
        BENCH.read(bench_line(**fields), SourceSettings(path="bench.parquet"))
    assert dropped.value.reason == reason
