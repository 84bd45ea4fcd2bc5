"""The method `prometheus`: rubrics, instructions, five scored responses, ten pairs, and rows that train a judge."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.prometheus import CRITERIA, PrometheusSettings, plan
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.multifaceted import Rubric
from synthmill.schemas.rows import arrow_schema
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.frames import frame_schema
from synthmill.tasks.generators.feedback_collection import (
    FineRubrics,
    JudgedTask,
    PairFeedback,
    RubricTask,
    RubricTaskRows,
    RubricTasks,
    ScoredResponses,
    SeedRubric,
    read_feedback,
    read_instructions,
    read_response,
)
from synthmill.tasks.generators.judge_rows import JudgeTrainingRows
from synthmill.tasks.scorers.direct import DirectScores
from synthmill.tasks.scorers.matches import verdict_of
from synthmill.tasks.scorers.verdicts import parse_score
from tests.tasks.judging_by_hand import drive, pool, through_engine

LOCK = {
    "stages": {
        "fine_rubrics@1": "46c1b31bb1d67461",
        "judge_training_rows@1": "20f3fa95330a6ad1",
        "pair_feedback@1": "f0c8d68191d67326",
        "rubric_tasks@1": "7d26da0e4c752523",
        "scored_responses@1": "5d4cfcef78b7b98a",
    },
    "prompts": {
        "prometheus/compare": "06426d3f0ac8",
        "prometheus/instructions": "18fedb5e6258",
        "prometheus/response": "8b4389153013",
        "prometheus/rubric": "cb540f628bb0",
    },
}
LEVELS = tuple(f"level {n}" for n in range(1, 6))
RUBRIC = Rubric(criteria="Is it kind?", score_descriptions=LEVELS)
WRITTEN = {"criteria": "Is it kind?", "score_descriptions": dict(zip("12345", LEVELS, strict=True))}
TASK = RubricTask(id="t", prompt="Comfort me.", rubric=RUBRIC)
REFERENCE = "one two three four five six"


def in_json(value: Any) -> Completion:
    return Completion(text=orjson.dumps(value).decode())


def score_of(request: Request) -> int:
    return int(request.messages[-1].content.partition("deserves exactly score ")[2][0])


def author(request: Request) -> Completion:
    """Writes the reference, and responses that name their score."""
    if not request.schema_:
        return Completion(text=REFERENCE)
    score = score_of(request)
    return in_json({"response": f"response {score} of just six words", "feedback": f"It does {score} things."})


def judged() -> JudgedTask:
    task, _ = drive(ScoredResponses(), TASK, author)
    row, _ = drive(PairFeedback(), task, lambda _: Completion(text="Response A differs from Response B."))
    assert isinstance(row, JudgedTask)
    return row


def test_a_rubric_and_its_instructions() -> None:
    def reply(request: Request) -> Completion:
        rubric = "criteria" in (request.schema_ or {})["properties"]
        return in_json(
            WRITTEN if rubric else {"instructions": ["Cheer me up.", "cheer me  up.", "Tell a joke.", 5, " "]}
        )

    row, asked = drive(FineRubrics(count=2), SeedRubric(id="s", criteria=CRITERIA[0], number=7), reply)
    assert isinstance(row, RubricTasks) and row.rubric == RUBRIC
    assert row.instructions == ("cheer me  up.", "Tell a joke.")
    assert [request.sample for request in asked] == [700, 700] and CRITERIA[0] in asked[0].messages[-1].content
    frame = pl.DataFrame([row.model_dump()], schema=frame_schema(RubricTasks))
    tasks, dropped = RubricTaskRows(count=2).apply(frame, Path())
    assert tasks["prompt"].to_list() == list(row.instructions) and set(tasks["parent_id"]) == {row.id} and not dropped


def test_a_response_and_feedback_for_each_score() -> None:
    row, asked = drive(ScoredResponses(), TASK, author)
    assert [(each.score, each.text.split()[1], each.feedback) for each in row.responses] == [
        (score, str(score), f"It does {score} things.") for score in range(1, 6)
    ]
    assert row.reference == REFERENCE and [score_of(request) for request in asked[1:]] == [1, 2, 3, 4, 5]
    assert all("about 6 words" in request.messages[-1].content for request in asked[1:])


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"response": "a b c d e f"}, "no texts"),
        ({"response": "a b c d e f", "feedback": " "}, "no texts"),
        ({"response": 5, "feedback": "x"}, "no texts"),
        ({"response": "a b", "feedback": "x"}, "had 2 words; write about 6"),
        ({"response": "a " * 13, "feedback": "x"}, "had 13 words; write about 6"),
        ({"response": "a b c d e f", "feedback": "So. [RESULT] 3"}, r"had a \[RESULT\]"),
    ],
)
def test_what_is_no_response(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(Drop, match=fault):
        read_response(in_json(fields), 3, 6, 2.0)


def test_bad_answers_are_asked_for_again_and_then_drop_the_task() -> None:
    def twins(request: Request) -> Completion:
        same = request.schema_ and score_of(request) > 3 and not request.asked_again
        return in_json({"response": "the same six words as before", "feedback": "x"}) if same else author(request)

    row, asked = drive(ScoredResponses(attempts=2), TASK, twins)
    assert len(asked) == 7 and "the same as the response of another score" in asked[-1].messages[-1].content
    assert len({response.text for response in row.responses}) == 5
    with pytest.raises(Drop, match="bad_response"):
        drive(
            ScoredResponses(attempts=1), TASK, lambda r: author(r) if not r.schema_ else Completion(text="[RESULT] 3")
        )
    for completion in (Completion(text="", finish_reason="stop"), Completion(text="a", finish_reason="length")):
        with pytest.raises(Drop):
            read_feedback(completion)
    for completion in (through_engine('<think>{"instructions": ["x"]}'), in_json({"instructions": []})):
        with pytest.raises(Drop, match="bad_instructions"):
            read_instructions(completion)


def test_ten_pairs_of_each_five_and_the_better_one_has_the_higher_score() -> None:
    row = judged()
    assert {frozenset((pair.first, pair.second)) for pair in row.pairs} == {
        frozenset((low, high)) for low in range(1, 6) for high in range(low + 1, 6)
    }
    again, asked = drive(PairFeedback(), row, lambda _: Completion(text="x"))
    assert [(pair.first, pair.second) for pair in again.pairs] == [(pair.first, pair.second) for pair in row.pairs]
    for request, pair in zip(asked, row.pairs, strict=True):
        better = "A" if pair.first > pair.second else "B"
        assert f"Response {better} is the better one" in request.messages[-1].content
    orders = Counter(
        pair.first > pair.second
        for n in range(60)
        for pair in drive(PairFeedback(), row.model_copy(update={"id": str(n)}), lambda _: Completion(text="x"))[
            0
        ].pairs
    )
    assert 0.4 < orders[True] / orders.total() < 0.6


def test_rows_ask_what_the_scorers_ask_and_their_verdicts_are_read_back(tmp_path: Path) -> None:
    row = judged()
    schema = pl.DataFrame(arrow_schema(JudgedTask).empty_table()).schema
    rows, dropped = JudgeTrainingRows().apply(pl.DataFrame([row.model_dump()], schema=schema), tmp_path)
    assert not dropped and rows["form"].value_counts(sort=True).rows() == [("relative", 10), ("absolute", 5)]
    assert rows["id"].n_unique() == 15 and rows.filter(form="absolute")["words"].to_list() == [6] * 5
    for label, messages in rows.filter(form="absolute").select("label", "messages").rows():
        assert parse_score(messages[-1]["content"])[1] == int(label)
    for label, messages in rows.filter(form="relative").select("label", "messages").rows():
        assert verdict_of(Completion(text=messages[-1]["content"])) == float(label == "A")
    stage = DirectScores(rubric=RUBRIC, evaluations=1)
    asked_pool = pool(row.responses[0].text, prompt=TASK.prompt, reference=REFERENCE)
    _, [asked] = drive(stage, asked_pool, lambda _: Completion(text="[RESULT] 1"))
    assert [message.content for message in asked.messages] == [m["content"] for m in rows["messages"][0][:-1]]
    assert set(JudgeTrainingRows().identity({})["prompts"]) == {"pools/rubric", "pools/prefer"}


def test_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {
        "engines": {"teacher": "openai:m@http://127.0.0.1:9/v1"},
        "dedup": {"layers": ["exact"]},
    }
    planned = plan(read_settings(PrometheusSettings, None, settings))
    assert planned.source.look()[0] == 1000 and "from 12 criteria" in planned.source.look()[1]
    assert [step.step for step in planned.stages] == [
        *("fine_rubrics", "rubric_tasks", "unique_instructions", "scored_responses", "pair_feedback"),
        "judge_training_rows",
    ]
    without = plan(read_settings(PrometheusSettings, None, {**settings, "pairs": False}))
    assert "pair_feedback" not in [step.step for step in without.stages]
