"""The additive judge: points from 0 to 5 at the end, averaged over k; what is no total is counted, and no number."""

import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.scorers.self_rewarding import AdditiveScores, total_points
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, through_engine

LOCK = {
    "stages": {
        "additive_scores@2": "0fa956c7d0022cfb",
    },
    "prompts": {
        "self_rewarding/score": "4e8369ab2978",
    },
}


def test_the_totals_of_three_evaluations_are_averaged() -> None:
    stage = ScorerSettings.model_validate({"spec": "self-rewarding"}).stage(CONTEXT)
    assert isinstance(stage, AdditiveScores) and stage.label == "self_rewarding"
    assert (stage.evaluations, stage.sampling.temperature, stage.sampling.top_p) == (3, 0.7, 0.9)
    totals = {"good": (5, 4, 4), "bad": (1, 0, 0)}
    row, asked = drive(
        stage,
        pool("good", "bad", "", reference="Light."),
        lambda request: Completion(text=f"1. Given.\nScore: {totals[answer_of(request)][request.sample // 100]}"),
    )
    assert row.scores[-1].values == (13 / 3, 1 / 3, 0.0)
    assert (row.judgements, row.unread) == (6, 0)
    texts = [request.messages[-1].content for request in asked]
    shared = texts[0][: -len("good")]
    assert all(text.startswith(shared) for text in texts) and "Light." in shared  # a server's prefix cache serves it


@pytest.mark.parametrize(
    ("text", "points"),
    [("Score: 0", 0), ("2 points.\n\n**Score: 5**", 5), ("Score: 3/5", 3), ("Score: 2.", 2), ("Total score: 4", 4)],
)
def test_what_is_a_total(text: str, points: int) -> None:
    assert total_points(Completion(text=text)) == points


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Score: 6",
            "Score: -1",
            "Score: 3.5",
            "Score: 3-4",
            "Score: three",
            "Score: 3½",
            "Score: 4/10",
            "Score: TOTAL",
        ),
        *("1. Given. 2. Given.", "Score: 3\nScore: 5", "Score: 3\nNo:\nScore: 4", "Score:", ""),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(Drop):
        total_points(Completion(text=text))


def test_a_total_within_thinking_or_behind_the_limit_is_none() -> None:
    for completion in (
        through_engine("<think>Score: 3"),
        through_engine("<think>Score: 3</think> Well."),
        Completion(text="1. Given. Score: 1", finish_reason="length"),
    ):
        with pytest.raises(Drop):
            total_points(completion)
    assert total_points(through_engine("<think>Score: 3</think>Score: 4")) == 4
    assert total_points(Completion(text="", error="engine_error: gone", finish_reason="error")) is None


def test_what_could_not_be_read_is_missing_and_counted() -> None:
    stage = AdditiveScores(evaluations=2, attempts=2)
    row, asked = drive(
        stage,
        pool("good", "bad"),
        lambda request: Completion(text="Score: 4" if answer_of(request) == "good" else "Score: 4.5"),
    )
    assert row.scores[-1].values == (4.0, None)
    assert (row.judgements, row.unread, row.first_unread) == (4, 2, "Score: 4.5")
    assert len(asked) == 6 and "did not end with `Score: `" in asked[-1].messages[-1].content
