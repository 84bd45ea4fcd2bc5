"""Confidence that means what it says: calibrated from labels, as rows, and SaySelf's rationales of disagreement."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.pools import Score, ScoredPool
from synthmill.tasks.generators.uncertainty import UncertaintyRationales, read_rationale
from synthmill.tasks.scorers.calibrated import CalibratedScores, isotonic, platt
from synthmill.tasks.tables.confidence_rows import ConfidenceRows
from tests.command import synthmill
from tests.conftest import write_jsonl
from tests.tasks.judging_by_hand import drive, pool
from tests.tasks.test_scorers import frame

LOCK = {
    "stages": {
        "calibrated_scores@1": "4ec51dec9eb0f8d3",
        "confidence_rows@1": "ae3a71c5a343eda1",
        "uncertainty_rationales@1": "633c90d9819fe1d5",
    },
    "prompts": {"uncertainty/rationale": "b3190ffa9022"},
}


def scored(name: str, **scores: list[float | None]) -> ScoredPool:
    texts = [f"{name}{n}" for n in range(len(next(iter(scores.values()))))]
    rows = tuple(Score(scorer=label, settings="{}", values=tuple(values)) for label, values in scores.items())
    return pool(*texts, id=name, scores=rows)


def test_platt_is_scikit_learns_and_isotonic_pools_violators() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(3, 2, 200)
    right = (random.uniform(0, 1, 200) < 1 / (1 + np.exp(3 - scores))).astype(float)
    as_it_is = LogisticRegression().fit(scores[:, None], right)
    as_it_is.coef_, as_it_is.intercept_ = np.ones((1, 1)), np.zeros(1)
    reference = CalibratedClassifierCV(FrozenEstimator(as_it_is), method="sigmoid").fit(scores[:, None], right)
    expected = reference.predict_proba(scores[:, None])[:, 1]
    assert platt(scores, right)(scores) == pytest.approx(expected, abs=1e-3)
    parted = platt(np.array([0.0, 1, 2, 3]), np.array([0.0, 0, 1, 1]))(np.array([0.0, 3.0]))
    assert 0.1 < parted[0] < 0.4 < 0.6 < parted[1] < 0.9  # never quite sure of four labels
    steps = isotonic(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1]))
    assert steps(np.array([0.0, 2, 3, 4, 9])).tolist() == [0, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_overconfident_scores_become_calibrated(method: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    said, rows = random.uniform(0.5, 1, (300, 2)), []
    chances = 2 * said - 1  # how often they are right: less often than they say
    right = (random.uniform(0, 1, (300, 2)) < chances).astype(float)
    for n in range(300):
        labels = list(right[n]) if n < 250 else [None, None]
        rows.append(scored(f"p{n}", said=list(said[n]), right=labels))
    stage = CalibratedScores(of="said", by="right", method=method)
    made, _ = stage.apply(frame(*rows), tmp_path)
    [figure] = stage.figures([made[:100], made[100:]])
    assert figure.columns == ("score", "ece", "brier", "auroc") and [row[0] for row in figure.rows] == [
        "said",
        "calibrated",
    ]
    errors = [float(row[1].partition(" ")[0]) for row in figure.rows]
    assert errors[0] > 0.2 and errors[1] < 0.08
    confidence = np.array([scores[-1]["values"] for scores in made["scores"].to_list()])
    before, labelled, unlabelled = (
        np.abs(of - chances)[places].mean()
        for of, places in ((said, slice(None)), (confidence, slice(250)), (confidence, slice(250, 300)))
    )
    assert before > 0.2 and labelled < 0.08 and unlabelled < 0.08


def test_no_prompt_learns_from_its_own_label(tmp_path: Path) -> None:
    rows = [scored(name, s=[0.5], right=[label]) for name, label in (("a", 1.0), ("b", 0.0), ("c", 0.0))]
    rows += [scored("d", s=[0.5, None], right=[None, 1.0])]
    made, _ = CalibratedScores(of="s", by="right").apply(frame(*rows), tmp_path)
    values = [scores[-1]["values"] for scores in made["scores"].to_list()]
    assert values == [[0.0], [0.5], [0.5], [pytest.approx(1 / 3), None]]
    with pytest.raises(InputError, match="1 prompts have some, expected two at least"):
        CalibratedScores(of="s", by="right").apply(frame(rows[0], rows[3]), tmp_path)
    with pytest.raises(InputError, match="calibrated needs the score t; found right, s"):
        CalibratedScores(of="t", by="right").apply(frame(*rows), tmp_path)


def test_score_calibrates_a_column_by_another(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "answers": ["x", "y"], "p": [0.9, 0.2], "right": [1, n % 2]} for n in range(4)]
    write_jsonl(tmp_path / "in.jsonl", [*rows, {**rows[0], "prompt": "new?", "right": [None, None]}])
    options = ("--scorer", "calibrated", "--set", "of=p", "--set", "by=right", "--out", "out.parquet")
    synthmill("score", "in.jsonl", *options, "--workers", 0, cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "out.parquet")["calibrated"].to_list()[-1] == [1.0, 0.5]


def test_rows_of_confidence(tmp_path: Path) -> None:
    rows = [scored("a", calibrated=[0.25, None, 1.5, 1.0]), scored("b", calibrated=[None])]
    made, dropped = ConfidenceRows().apply(frame(*rows), tmp_path)
    assert made.select("prompt", "completion", "confidence").rows() == [
        *(("What carries light?", "a0", 0.25), ("What carries light?", "a3", 1.0))
    ]
    assert [(drop.id, drop.reason) for drop in dropped] == [("b", "no_confidence")]


ANSWERS = ("The answer is 41", "So the answer is 42", "6 x 7 = 42", "42", "The answer is 48", "")


def test_a_rationale_is_written_from_answers_that_differ() -> None:
    said = iter(("Answer [2] is less likely.", "I know that 6 x 7 is near 42, but not the last digit."))
    row, asked = drive(UncertaintyRationales(most=2), pool(*ANSWERS), lambda _: Completion(text=next(said)))
    shown = asked[0].messages[-1].content
    assert "[1] Given 3 of 5 times:\nSo the answer is 42\n\n[2] Given 1 of 5 times:\nThe answer is 41\n" in shown
    assert "48" not in shown and len(asked) == 2 and asked[0].role == "author"
    assert (row.answer, row.confidence) == ("So the answer is 42", 0.6) and row.rationale.startswith("I know")
    assert row.completion == f"So the answer is 42\n\n{row.rationale}\n\nConfidence: 6/10"


def test_its_confidence_may_be_a_calibrated_score() -> None:
    def reply(_: Request) -> Completion:
        return Completion(text="I am sure.")

    values = Score(scorer="calibrated", settings="{}", values=(0.1, 0.84, None, None, 0.2, 0.0))
    row, _ = drive(UncertaintyRationales(score="calibrated"), pool(*ANSWERS, scores=(values,)), reply)
    assert row.confidence == 0.84 and row.completion.endswith("Confidence: 8/10")
    with pytest.raises(Drop, match="no_confidence: 'sure' is None"):
        drive(UncertaintyRationales(score="sure"), pool(*ANSWERS, scores=(values,)), reply)
    with pytest.raises(Drop, match="too_few_answers: 1 of 2 are whole"):
        drive(UncertaintyRationales(), pool("42", ""), reply)


@pytest.mark.parametrize("text", ["", " ", "I prefer [1]."])
def test_what_is_no_rationale(text: str) -> None:
    with pytest.raises(Drop, match="no_rationale"):
        read_rationale(Completion(text=text))
    with pytest.raises(Drop, match="it was cut"):
        read_rationale(Completion(text="I am", finish_reason="length"))
