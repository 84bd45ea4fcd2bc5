"""A judge made fair: evidence k times, balanced positions, the entropy of verdicts by hand."""

import math

import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.tasks.scorers.fair import FairScores, entropy_of, scores_of
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.tasks.judging_by_hand import drive, pool, through_engine, values_of

LOCK = {"stages": {"fair_scores@1": "8be18446c0ff9a35"}, "prompts": {"fair/scores": "b8432f0f243f"}}


def sides(request: Request) -> tuple[str, str]:
    first, second = str(request.messages[-1].content).split("Response A:\n")[1].split("\n\nResponse B:\n")
    return first, second


def lines(first: object, second: object) -> Completion:
    return Completion(text=f"Evidence.\nScore of response A: {first}\nScore of response B: {second}")


def test_a_judge_that_prefers_the_first_place_is_balanced() -> None:
    row, requests = drive(FairScores(), pool("one", "two"), lambda _: lines(8, 4))
    assert len(requests) == 6 and {request.sample for request in requests} == {0, 100, 200}
    assert sides(requests[0]) == ("one", "two") and sides(requests[3]) == ("two", "one")
    scores = values_of(row)
    assert scores["fair"] == (6.0, 6.0) and scores["fair_look"] == (1.0, 1.0)
    assert scores["fair_doubt"] == pytest.approx((math.log(2), math.log(2)))


def test_scores_are_means_over_orders_and_matches() -> None:
    worth = {"good": 9, "fair": 6, "bad": 2}
    row, requests = drive(FairScores(evaluations=1), pool(*worth), lambda r: lines(*(worth[side] for side in sides(r))))
    assert len(requests) == 6
    assert values_of(row) == {"fair": (9, 6, 2), "fair_doubt": (0, 0, 0), "fair_look": (0, 0, 0)}


def test_the_entropy_of_verdicts() -> None:
    assert entropy_of([(5, 5)] * 6) == 0
    assert entropy_of([(5, 4), (5, 4), (4, 4), (4, 4), (3, 4), (3, 4)]) == pytest.approx(math.log(3))
    five_to_one = -(5 / 6 * math.log(5 / 6) + 1 / 6 * math.log(1 / 6))
    assert entropy_of([(5, 4)] * 5 + [(1, 4)]) == pytest.approx(five_to_one)


def test_a_match_without_one_order_counts_for_nobody() -> None:
    def reply(request: Request) -> Completion:
        return lines(8, 4) if sides(request)[0] == "one" else Completion(text="I cannot say.")

    row, _ = drive(FairScores(attempts=1), pool("one", "two"), reply)
    assert values_of(row)["fair"] == (None, None) and values_of(row)["fair_look"] == (None, None)
    assert (row.judgements, row.unread, row.first_unread) == (6, 3, "I cannot say.")
    row, requests = drive(FairScores(attempts=1), pool("same", "same", "other"), reply)
    assert len(requests) == 12  # equal answers are not compared


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("Score of response A: 7\nScore of response B: 3", (7, 3)),
        ("**Score of Response A:** 10/10\n**Score of Response B:** [1].", (10, 1)),
        ("Score of response (A) = 7\nScore of response (B) = 3", (7, 3)),
        ("Score of response A: 7\nScore of response A: 7\nScore of response B: 3", (7, 3)),
        ("Score of response A: 7\nScore of response A: 8\nScore of response B: 3", None),
        ("Score of response A: 7-8\nScore of response B: 3", None),
        ("Score of response A: 7.5\nScore of response B: 3", None),
        ("Score of response A: 7 or 8\nScore of response B: 3", None),
        ("Score of response A: eight\nScore of response B: 3", None),
        ("Score of response A: 0\nScore of response B: 3", None),
        ("Score of response A: 11\nScore of response B: 3", None),
        ("Score of response A: 7/100\nScore of response B: 3", None),
        ("Score of response A: 7", None),
        ("", None),
    ],
)
def test_what_is_a_pair_of_scores(text: str, scores: tuple[int, int] | None) -> None:
    if scores is None:
        with pytest.raises(Drop):
            scores_of(Completion(text=text))
    else:
        assert scores_of(Completion(text=text)) == scores
    thought = through_engine(f"<think>Score of response A: 1\nScore of response B: 1</think>{text}")
    if scores:
        assert scores_of(thought) == scores


def test_the_settings_name_three_scores() -> None:
    settings = ScorerSettings.model_validate({"spec": "fair", "name": "f"})
    assert settings.labels == ("f_doubt", "f_look", "f")
