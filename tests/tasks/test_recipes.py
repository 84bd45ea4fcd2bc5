"""Recipes, driven by hand: what they ask, what they make of the answer, and what they drop."""

import json

import pytest

from schemas.calls import Completion
from schemas.errors import Drop
from schemas.rows import Instruction, PreferenceSet, Value
from tasks.answers import Answers
from tasks.multifaceted import DIMENSIONS, PreferenceSets, SystemMessages

ROW = Instruction(id="a", prompt="Why is the {{ sky }} blue?")


def value_of(dimension: str) -> dict[str, str]:
    return {
        "subdimension": f"{dimension} sub",
        "preference": f"KEYWORD-{dimension}",
        "description": f"Wishes for {dimension}\n here.",
    }


GOOD = json.dumps({dimension: value_of(dimension) for dimension in DIMENSIONS})


def test_a_preference_set_has_each_dimension_once_in_order() -> None:
    steps = PreferenceSets().steps(ROW)
    [ask] = next(steps)
    assert "Why is the {{ sky }} blue?" in ask.messages[-1].content  # a row's text is never template syntax
    assert ask.schema_ is not None
    assert list(ask.schema_["properties"]) == list(DIMENSIONS)
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text=GOOD)])
    made: PreferenceSet = done.value.value
    assert [value.dimension for value in made.values] == [
        "style",
        "background_knowledge",
        "informativeness",
        "harmlessness",
    ]
    assert made.values[0].description == "Wishes for style here."
    assert made.parent_id == "a"


@pytest.mark.parametrize(
    "bad",
    [
        Completion(text="no JSON"),
        Completion(text="[]"),
        Completion(text=json.dumps({"style": value_of("style")})),
        Completion(text=GOOD.replace("Wishes for style\\n here.", "  ")),
        Completion(text=GOOD, finish_reason="length"),
    ],
)
def test_a_bad_preference_set_is_asked_for_again_then_dropped(bad: Completion) -> None:
    steps = PreferenceSets(attempts=2).steps(ROW)
    [first] = next(steps)
    [second] = steps.send([bad])
    assert (first.sample, second.sample, second.messages) == (0, 1, first.messages)
    with pytest.raises(Drop) as dropped:
        steps.send([bad])
    assert dropped.value.reason == "bad_preference_set"


def test_a_system_message_is_asked_for_with_the_descriptions_only() -> None:
    values = tuple(Value(dimension=name, **value_of(name)) for name in DIMENSIONS)
    steps = SystemMessages().steps(PreferenceSet.child_of(ROW, 0, values=values))
    [ask] = next(steps)
    said = ask.messages[-1].content
    assert all(value.description in said for value in values)
    assert not any(value.preference in said or ROW.prompt in said for value in values)
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text='{"system_message": "You are a patient\\n teacher."}')])
    assert done.value.value.system == "You are a patient teacher."


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Completion(text='{"system_message": " "}'), "empty_system_message"),
        (Completion(text="You are"), "bad_system_message: JSONDecodeError"),
        (
            Completion(text='{"system_message": "You are', finish_reason="length"),
            "bad_system_message: cut at max_tokens",
        ),
    ],
)
def test_a_bad_system_message_is_asked_for_again_then_dropped(bad: Completion, reason: str) -> None:
    steps = SystemMessages(attempts=2).steps(PreferenceSet.child_of(ROW, 0, values=()))
    next(steps)
    [second] = steps.send([bad])
    assert second.sample == 1
    with pytest.raises(Drop, match=reason):
        steps.send([bad])


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
