"""Recipes, driven by hand: what they ask, what they make of the answer, and what they drop."""

from collections.abc import Sequence

import pytest

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.recipe import ask_all, ask_until

ROW = Instruction(id="a", prompt="Why is the {{ sky }} blue?")


def test_a_pool_keeps_what_came_if_it_is_enough() -> None:
    failed = Completion(text="", error="engine_timeout: no answer")
    answers = [
        Completion(text="one", completion_tokens=5),
        failed,
        Completion(text="cut", finish_reason="length"),
        Completion(text=" "),
    ]
    steps = Answers(count=4, min_answers=2).steps(ROW.model_copy(update={"system": "be brief"}))
    asked = next(steps)
    assert [(request.sample, request.optional) for request in asked] == [(n, True) for n in range(4)]
    assert [message.role for message in asked[0].messages] == ["system", "user"]
    with pytest.raises(StopIteration) as done:
        steps.send(answers)
    pool = done.value.value
    assert [(answer.answer_index, answer.finish_reason) for answer in pool.answers] == [(0, "stop"), (2, "length")]
    steps = Answers(count=4, min_answers=3).steps(ROW)
    next(steps)
    with pytest.raises(Drop, match="too_few_answers: 2 of 4; empty_answer; engine_timeout"):
        steps.send(answers)


def test_a_question_is_asked_again_with_its_fault_named() -> None:
    ask = Request(role="teacher", messages=(Message(role="user", content="Say A or B."),), sample=7)

    def parse(place: int, said: Completion) -> str:
        if said.text not in "AB":
            raise Drop(f"bad_letter: it was {said.text!r}")
        return said.text

    def compare(found: Sequence[str | None]) -> dict[int, Drop]:
        return {1: Drop("same_letter")} if found[0] == found[1] else {}

    steps = ask_all([ask, ask.model_copy(update={"sample": 20})], 3, parse, compare)
    assert [request.sample for request in next(steps)] == [7, 20]
    [again] = steps.send([Completion(text="A"), Completion(text="C")])
    assert again.sample == 21
    assert again.messages[0].content == (
        "Say A or B.\n\n(An earlier reply to this could not be used: it was 'C'. Reply again, and mind this.)"
    )
    [again] = steps.send([Completion(text="A")])  # allowed, but the same as the other's
    assert (again.sample, "used: same letter." in again.messages[0].content) == (22, True)
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="B")])
    assert done.value.value == ["A", "B"]


def test_after_the_last_attempt_the_fault_ends_the_row() -> None:
    def parse(said: Completion) -> str:
        raise Drop(f"never: {said.text}")

    steps = ask_until(Request(role="teacher", messages=(Message(role="user", content="?"),)), 2, parse)
    next(steps)
    steps.send([Completion(text="one")])
    with pytest.raises(Drop, match="never: two"):
        steps.send([Completion(text="two")])
