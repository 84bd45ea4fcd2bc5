"""Simulated annotators: drawn for each pair by the seed, both orders, ties, noise, and how far noise moves labels."""

from collections import Counter
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import arrow_schema
from synthmill.tasks.scorers.annotators import WORDINGS, AnnotatedPool, AnnotatorScores, first_wins
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.tasks.judging_by_hand import CONTEXT, drive, pool, through_engine, values_of

LOCK = {
    "stages": {
        "annotator_scores@2": "1370d3c62dc8130e",
    },
    "prompts": {
        "annotators/brief": "d70de5b51517",
        "annotators/criteria": "bab8243b3d65",
        "annotators/reader": "d93abc68d73a",
        "annotators/reasons": "bde36778f29f",
    },
}
TEXTS = ("answer 3", "answer 2", "answer 1", "answer 0")  # the better, the earlier


def prefers_the_higher(request: Request) -> Completion:
    text = request.messages[-1].content
    first, second = (int(text.partition(f"Response {letter}:\nanswer ")[2][0]) for letter in "AB")
    letter = "A" if first > second else "B"
    return Completion(text=f"Well. [RESULT] {letter}" if "[RESULT]" in text else letter)


def test_without_noise_the_shares_are_those_of_the_annotators() -> None:
    settings = {"spec": "annotators", "label_noise": 0, "temperatures": [0.5, 1], "annotators": ["judge", "other"]}
    stage = ScorerSettings.model_validate(settings).stage(CONTEXT)
    assert isinstance(stage, AnnotatorScores) and stage.needs_roles() == ("judge", "other")
    row, asked = drive(stage, pool(*TEXTS), prefers_the_higher)
    shares = (1.0, 2 / 3, 1 / 3, 0.0)
    assert values_of(row) == {"annotators_noiseless": shares, "annotators": shares}
    assert len(asked) == 12 and all(annotation.consistent for annotation in row.annotations)
    assert {annotation.label for annotation in row.annotations} == {1.0}
    assert [(a.role, a.sampling) for a in asked[::2]] == [(a.role, a.sampling) for a in asked[1::2]]  # one, both orders


def test_an_annotator_is_drawn_for_each_pair_by_the_seed() -> None:
    def drawn(**settings: Any) -> list[str]:
        row, _ = drive(
            AnnotatorScores(**settings), pool(*map("answer {}".format, range(9)), id="x"), prefers_the_higher
        )
        return [annotation.annotator for annotation in row.annotations]

    counts = Counter(drawn(temperatures=(0.5, 1.0)))
    assert sum(counts.values()) == 36 and len(counts) > len(WORDINGS)
    assert drawn() == drawn() != drawn(seed=1)
    assert {name.split(", ")[1] for name in drawn(wordings=("reader",))} == {"reader"}
    assert drawn(label_noise=0.0) == drawn(label_noise=0.5)  # noise changes nobody's turn


def test_a_quarter_of_the_labels_comes_out_wrong() -> None:
    rows = [drive(AnnotatorScores(), pool(*TEXTS, id=str(n)), prefers_the_higher)[0] for n in range(400)]
    annotations = [annotation for row in rows for annotation in row.annotations]
    wrong = sum(annotation.label == 2 for annotation in annotations) / len(annotations)
    assert len(annotations) == 2400 and {annotation.noiseless for annotation in annotations} == {1.0}
    assert abs(wrong - 0.25) < 4 * (0.25 * 0.75 / 2400) ** 0.5
    schema = pl.DataFrame(arrow_schema(AnnotatedPool).empty_table()).schema
    [figure] = AnnotatorScores().figures([pl.DataFrame([row.model_dump() for row in rows], schema=schema)])
    assert figure.rows[0] == ("all", "2,400", "100.0%", "0.0%", f"{1 - wrong:.1%}")
    assert len(figure.rows) == 1 + len(WORDINGS)


def test_ties_are_one_and_a_half() -> None:
    row, asked = drive(AnnotatorScores(wordings=("brief",)), pool("so", "so"), prefers_the_higher)
    assert not asked and [(each.label, each.consistent) for each in row.annotations] == [(1.5, True)]
    row, _ = drive(AnnotatorScores(label_noise=0), pool("a", "b"), lambda _: Completion(text="A [RESULT] A"))
    assert [(each.label, each.consistent) for each in row.annotations] == [(1.5, False)]
    assert values_of(row)["annotators"] == (0.5, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "C",
        "",
        "A or B",
        "AB",
        "A/B",
        "neither",
        "[RESULT] C",
        "[RESULT] A or B",
        "1",
        "A\nB",
        "A. No, B",
        "A=B",
        "A then B",
    ],
)
def test_what_is_no_verdict(text: str) -> None:
    with pytest.raises(Drop, match="no_verdict"):
        first_wins(Completion(text=text))


@pytest.mark.parametrize("text", ["A > B", "A, not B", "A\n\nA is clearer", "A is better than B", "A" + "\n" * 100_000])
def test_a_verdict_may_name_both(text: str) -> None:
    assert first_wins(Completion(text=text)) == 1


def test_a_verdict_within_thinking_does_not_count() -> None:
    assert first_wins(through_engine("<think>A [RESULT] A</think>B")) == 0
    with pytest.raises(Drop):
        first_wins(through_engine("<think>[RESULT] A"))
    with pytest.raises(Drop, match="two_verdicts"):
        first_wins(Completion(text="[RESULT] B\nNo. [RESULT] A"))
    assert first_wins(Completion(text="[RESULT] A or B? [RESULT] A, so [RESULT] A")) == 1


def test_a_pair_that_lacks_a_judgement_does_not_count() -> None:
    def silent_on_0(request: Request) -> Completion:
        silent = "answer 0" in request.messages[-1].content
        return Completion(text="Hm.") if silent else prefers_the_higher(request)

    row, asked = drive(AnnotatorScores(attempts=2, label_noise=0), pool(*TEXTS), silent_on_0)
    assert values_of(row)["annotators"] == (1.0, 0.5, 0.0, None)
    assert (row.judgements, row.unread, row.first_unread, len(asked)) == (12, 6, "Hm.", 18)
    assert [each.label for each in row.annotations].count(None) == 3
    schema = pl.DataFrame(arrow_schema(AnnotatedPool).empty_table()).schema
    lost, _ = drive(AnnotatorScores(), pool("a", "b"), lambda _: Completion(text="", error="engine_error: gone"))
    assert AnnotatorScores().figures([pl.DataFrame([lost.model_dump()], schema=schema)]) == []


def test_settings() -> None:
    for wrong in ({"label_noise": 0.6}, {"wordings": ["rude"]}, {"wordings": []}, {"annotators": []}):
        with pytest.raises(ValidationError):
            ScorerSettings.model_validate({"spec": "annotators", **wrong})
