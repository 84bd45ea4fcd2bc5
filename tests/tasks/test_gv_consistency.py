"""Generator-validator consistency: answers validated by their own generator; agreement trains both."""

import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction, to_arrow
from synthmill.tasks.generators.gv_consistency import (
    ConsistentRows,
    SelfValidation,
    ValidatedAnswers,
    agrees,
)
from tests.tasks.judging_by_hand import answer_of, drive

LOCK = {
    "stages": {"consistent_rows@1": "a74f337975d5fdc1", "self_validation@2": "dd5941edb5ab26e2"},
    "prompts": {"gv_consistency/wrong": "efbf7f6ea9dc"},
}
ROW = Instruction(id="a", prompt="What is 6 x 7?", system="Be brief.")
CHANCES = {"42": 0.9, "41": 0.7, "48": 0.1, "even": 0.5}


def model(right: str, wrong: str) -> Callable[[Request], Completion]:
    """A model that gives these answers, and validates them by CHANCES; texts of samples are parted by spaces."""

    def reply(request: Request) -> Completion:
        if request.sampling.logprobs:
            chance = CHANCES[answer_of(request)]
            alternatives = {"A": math.log(chance), "B": math.log(1 - chance)}
            return Completion(text="A", logprobs=[("A", math.log(chance), alternatives)])
        is_wrong = "Give a wrong answer" in request.messages[-1].content
        return Completion(text=(wrong if is_wrong else right).split(" ")[request.sample], finish_reason="stop")

    return reply


def test_the_generator_validates_what_it_gave() -> None:
    row, asked = drive(SelfValidation(count=2), ROW, model("42 42", "48 41"))
    assert isinstance(row, ValidatedAnswers) and row.parent_id == "a"
    assert [(answer.text, answer.right, answer.consistent) for answer in row.validated] == [
        *(("42", True, True), ("48", False, True), ("41", False, False))
    ]
    assert row.consistency == pytest.approx(2 / 3) and row.validated[0].chance == 0.9
    assert len(asked) == 4 + 3 and {request.role for request in asked} == {"student"}  # equal answers: validated once
    assert all(request.messages[0].content == "Be brief." for request in asked[:4])
    [figure] = SelfValidation().figures([pl.DataFrame(to_arrow(ValidatedAnswers, [row]))])
    assert figure.rows == (("right", "1", "1", "1.000"), ("wrong", "2", "2", "0.500"))


def test_an_even_chance_and_no_verdict_agree_with_nothing() -> None:
    assert [agrees(right, chance) for right in (True, False) for chance in (0.6, 0.5, 0.4, None)] == [
        *(True, False, False, False),
        *(False, False, True, False),
    ]

    def mute(request: Request) -> Completion:
        return Completion(text="A or B" if request.sampling.logprobs else "42", finish_reason="stop")

    row, _ = drive(SelfValidation(wrong=False), ROW, mute)
    assert row.consistency is None and [answer.chance for answer in row.validated] == [None]
    for completion, reason in (
        (Completion(text=" "), "empty"),
        (Completion(text="4", finish_reason="length"), "cut_answers"),
    ):
        with pytest.raises(Drop, match=reason):
            drive(SelfValidation(wrong=False), ROW, lambda _, completion=completion: completion)


def test_what_agrees_trains_generator_and_validator(tmp_path: Path) -> None:
    rows = [drive(SelfValidation(), ROW, model(*texts))[0] for texts in (("42", "48"), ("48", "41"), ("even", "48"))]
    rows = [row.model_copy(update={"id": name}) for row, name in zip(rows, "xyz", strict=True)]
    made, dropped = ConsistentRows().apply(pl.DataFrame(to_arrow(ValidatedAnswers, rows)), tmp_path)
    assert [(drop.id, drop.reason) for drop in dropped] == [("y", "inconsistent")]
    assert list(made.select("parent_id", "task").rows()) == [
        *(("x", "generator"), ("x", "validator"), ("x", "validator"), ("z", "validator"))
    ]
    talks = [[(turn["role"], turn["content"]) for turn in messages] for messages in made["messages"].to_list()]
    assert talks[0] == [("system", "Be brief."), ("user", "What is 6 x 7?"), ("assistant", "42")]
    assert [talk[-1][1] for talk in talks] == ["42", "A", "B", "B"]
    assert talks[2][1][1].endswith("Proposed answer:\n48") and made["id"].n_unique() == 4
