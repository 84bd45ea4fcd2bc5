"""Rubrics as rewards: written from a pair, applied to each answer alone, kept where they reproduce the preference."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.prompt_rubrics import (
    Compared,
    Criterion,
    PromptRubrics,
    RubricPrompt,
    read_checks,
    read_criteria,
    reward,
)
from tests.tasks.judging_by_hand import drive, through_engine

LOCK = {
    "stages": {
        "prompt_rubrics@1": "15e9883e67ffc15f",
    },
    "prompts": {
        "prompt_rubrics/check": "48011dc3d4f2",
        "prompt_rubrics/write": "f1d324b48d6c",
    },
}
PAIR = Compared(
    id="p", prompt="What carries light?", system="Be brief.", chosen="Glass fibre.", rejected="Copper wire."
)
ITEMS = [("names glass", "essential"), ("is brief", "optional"), ("does not name copper", "pitfall")]
RUBRIC = {"rubric": [{"criterion": text, "importance": importance} for text, importance in ITEMS]}


def in_json(value: Any) -> Completion:
    return Completion(text=orjson.dumps(value).decode())


def by_answer(chosen: Any, rejected: Any) -> Callable[[Request], Completion]:
    def reply(request: Request) -> Completion:
        if request.role == "author":
            return in_json(RUBRIC)
        return in_json(chosen if "Glass fibre." in request.messages[-1].content else rejected)

    return reply


def test_a_rubric_that_reproduces_the_label_is_kept() -> None:
    met, unmet = {"1": True, "2": False, "3": True}, {"1": False, "2": True, "3": False}
    row, asked = drive(PromptRubrics(), PAIR, by_answer(met, unmet))
    assert isinstance(row, RubricPrompt) and (row.prompt, row.system, row.parent_id) == (PAIR.prompt, "Be brief.", "p")
    assert [(each.criterion, each.importance, each.weight) for each in row.rubric] == [
        ("names glass", "essential", 1.0),
        ("is brief", "optional", 0.3),
        ("does not name copper", "pitfall", 0.9),
    ]
    assert row.chosen_reward == pytest.approx(1.9 / 2.2) and row.rejected_reward == pytest.approx(0.3 / 2.2)
    assert [request.role for request in asked] == ["author", "judge", "judge"]
    assert PAIR.chosen in asked[0].messages[-1].content and PAIR.rejected in asked[0].messages[-1].content
    texts = [request.messages[-1].content for request in asked[1:]]
    assert "Copper" not in texts[0] and "Glass" not in texts[1]  # each answer is checked alone
    assert texts[0].removesuffix("Glass fibre.") == texts[1].removesuffix("Copper wire.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin"),
    [((1, 1, 1), (1, 1, 1), 0), ((0, 1, 0), (1, 0, 1), 0), ((1, 1, 1), (1, 0, 1), 0.2)],
)
def test_a_rubric_that_does_not_tell_them_apart_is_dropped(chosen: Any, rejected: Any, margin: float) -> None:
    checks = [{str(n): bool(is_met) for n, is_met in enumerate(of, 1)} for of in (chosen, rejected)]
    with pytest.raises(Drop, match="label_not_reproduced: the chosen answer has"):
        drive(PromptRubrics(margin=margin), PAIR, by_answer(*checks))


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"rubric": []}, {"rubric": "be good"}, {"rubric": RUBRIC["rubric"][:2]}, {"rubric": [*ITEMS]}),
        {"rubric": [*RUBRIC["rubric"], {"criterion": "x", "importance": "high"}]},
        {"rubric": [*RUBRIC["rubric"], {"importance": "essential"}]},
        {"rubric": [RUBRIC["rubric"][0]] * 3},
    ],
    ids=str,
)
def test_what_is_no_rubric(value: Any) -> None:
    with pytest.raises(Drop, match="bad_rubric"):
        read_criteria(in_json(value), 3)


@pytest.mark.parametrize("value", [{"1": True}, {"1": True, "2": "yes"}, {"1": 1, "2": 0}, {"1": True, "2": None}, []])
def test_a_check_that_is_missing_is_refused(value: Any) -> None:
    with pytest.raises(Drop, match="bad_checks"):
        read_checks(in_json(value), ["1", "2"])


def test_cut_and_thought_answers_are_none_and_faults_are_named() -> None:
    twice = Completion(text='{"1": true, "1": false}')
    cut = Completion(text='{"1": true', finish_reason="length")
    for completion in (twice, cut, through_engine('<think>{"1": true}')):
        with pytest.raises(Drop, match="bad_checks"):
            read_checks(completion, ["1"])
    with pytest.raises(Drop, match="bad_checks"):
        drive(PromptRubrics(attempts=2), PAIR, by_answer({"1": True}, {"1": True}))
    with pytest.raises(Drop, match="same_text"):
        next(PromptRubrics().steps(PAIR.model_copy(update={"rejected": "Glass fibre. "})))


def test_a_reward_is_a_share_of_the_weights() -> None:
    rubric = tuple(Criterion(criterion=str(weight), importance="optional", weight=weight) for weight in (1.0, 3.0))
    assert [reward(rubric, met) for met in ((True, True), (True, False), (False, False))] == [1.0, 0.25, 0.0]
