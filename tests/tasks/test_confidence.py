"""Confidence: P(True), percentages, self-consistency; ECE, Brier and AUROC by hand and by scikit-learn."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.scorers.confidence import (
    ConsistencyScores,
    PercentScores,
    TruthScores,
    final_answer,
    percentage_of,
)
from synthmill.tasks.trust.calibration import auroc, brier_score, calibration, calibration_error
from tests.tasks.judging_by_hand import answer_of, drive, pool, through_engine, values_of
from tests.tasks.test_scorers import frame

LOCK = {
    "stages": {
        "consistency_scores@1": "51e85e830d3f3729",
        "percent_scores@2": "7f6f8912967d2b8e",
        "truth_scores@2": "f0eb6cfb0f92f470",
    },
    "prompts": {"confidence/is_true": "43bf0faf1180", "confidence/percent": "2edeabec0be2"},
}


def letter(chance: float) -> Completion:
    tokens = {"A": math.log(chance), "B": math.log(1 - chance)}
    return Completion(text="A", logprobs=[("A", tokens["A"], tokens)])


def test_p_true_is_the_letters_probability() -> None:
    chances = {"right": 0.8, "wrong": 0.1}
    row, requests = drive(TruthScores(), pool(*chances, " "), lambda r: letter(chances[answer_of(r)]))
    assert values_of(row)["p_true"] == pytest.approx((0.8, 0.1, 0.0)) and len(requests) == 2
    for logprobs in (None, [("A", None, None)]):
        row, _ = drive(TruthScores(), pool("right"), lambda _, given=logprobs: Completion(text="A", logprobs=given))
        assert values_of(row)["p_true"] == (1.0,)
    row, _ = drive(TruthScores(), pool("right"), lambda _: Completion(text="A or B"))
    assert values_of(row)["p_true"] == (None,) and row.unread == 1


def test_percentages_are_averaged() -> None:
    replies = iter(("for, against. [RESULT] 90", "[RESULT] 70 %"))
    row, _ = drive(PercentScores(evaluations=2), pool("right", ""), lambda _: Completion(text=next(replies)))
    assert values_of(row)["verbalised"] == pytest.approx((0.8, 0))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[RESULT] 0", 0.0),
        ("[RESULT] **100%**.", 1.0),
        ("[RESULT]: 85/100", 0.85),
        ("<think>[RESULT] 10</think>[RESULT] 20", 0.2),
        ("[RESULT] 80-90", None),
        ("[RESULT] 0.8", None),
        ("[RESULT] 101", None),
        ("[RESULT] -5", None),
        ("[RESULT] very sure", None),
        ("90", None),
        ("", None),
    ],
)
def test_what_is_a_percentage(text: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(Drop):
            percentage_of(through_engine(text))
    else:
        assert percentage_of(through_engine(text)) == value


def test_self_consistency_counts_final_answers(tmp_path: Path) -> None:
    answers = ("So the answer is 42.", "6 x 7 = 42", r"Thus \boxed{42}", "The answer is 41", "")
    scored, _ = ConsistencyScores().apply(frame(pool(*answers), pool("alone", id="b")), tmp_path)
    assert [scores[-1]["values"] for scores in scored["scores"].to_list()] == [[0.6, 0.6, 0.6, 0.2, 0], [None]]
    texts = ("ANSWER: Paris!", r"\boxed{\frac{1}{2}} or \boxed{1,000}", "It was 3, then 1,200.50", "Paris")
    assert [final_answer(text) for text in texts] == ["paris", "1000", "1200.50", "paris"]


def test_calibration_by_hand_and_by_scikit_learn() -> None:
    confidences, right = np.array([0.95, 0.95, 0.55, 0.55, 0.05, 1.0]), np.array([1, 0, 1, 1, 0, 1.0])
    ones = np.ones(6)
    # bins: 0.9 to 1: |2.9 - 2| of 3, 0.5 to 0.6: |1.1 - 2| of 2, 0 to 0.1: 0.05 of 1
    assert calibration_error(confidences, right, ones) == pytest.approx((0.9 + 0.9 + 0.05) / 6)
    assert brier_score(confidences, right, ones) == pytest.approx(brier_score_loss(right, confidences))
    assert auroc(confidences, right, ones) == pytest.approx(roc_auc_score(right, confidences))
    weights = np.array([2, 1, 0, 1, 3, 1.0])
    expected = roc_auc_score(right, confidences, sample_weight=weights)
    assert auroc(confidences, right, weights) == pytest.approx(expected)
    assert np.isnan(auroc(confidences, np.ones(6), ones))


def test_intervals_are_drawn_by_prompt() -> None:
    random = np.random.default_rng(0)
    confidences = random.uniform(0, 1, 400)
    right = (random.uniform(0, 1, 400) < confidences).astype(float)
    figures = calibration(confidences, right, np.arange(400) // 2, 200)
    for figure in figures.values():
        assert figure["low"] is not None and figure["low"] <= figure["value"] <= figure["high"]  # type: ignore[operator]
    assert figures["auroc"]["value"] > 0.75 and figures["ece"]["value"] < 0.1  # type: ignore[operator]
    none = calibration(np.array([0.5]), np.array([1.0]), np.array([0]), 10)
    assert none["auroc"] == {"value": None, "low": None, "high": None}
