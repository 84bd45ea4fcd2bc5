"""Thinking apart from the answer: marks and fields, what is cut, choices, log probabilities, why there is nothing."""

import timeit
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.endings import CUT_WHILE_THINKING
from synthmill.schemas.errors import Drop
from synthmill.schemas.thinking_settings import MARKS, ThinkingSettings
from synthmill.tasks.texts.thinking import (
    answer_alone,
    answers_alone,
    check_answered,
    named_fault,
    split_thinking,
    why_empty,
    with_thinking,
)

REQUEST = Request(role="teacher", messages=(Message(role="user", content="Why?"),))
CHOICE = REQUEST.model_copy(update={"choice": ("yes", "no")})
KEEP = ThinkingSettings()


def alone(text: str = "", settings: ThinkingSettings = KEEP, request: Request = REQUEST, **fields: Any) -> Completion:
    return answer_alone(request, Completion(text=text, **fields), settings)


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_every_pair_of_marks(opening: str, closing: str) -> None:
    whole = alone(f"{opening}\nhm, hm\n{closing}\n\nYes.")
    assert (whole.reasoning, whole.text) == ("hm, hm", "Yes.")
    cut = alone(f"{opening}\nhm, hm", finish_reason="length")
    assert (cut.reasoning, cut.text, cut.finish_reason) == ("hm, hm", "", CUT_WHILE_THINKING)
    begun = alone(f"hm, hm{closing}Yes.")
    assert (begun.reasoning, begun.text) == ("hm, hm", "Yes.")


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("  \n<think>a</think> b \n", "a", "b \n"),
        ("<think>a</think>\n<think>b</think>\n\nc", "a\n\nb", "c"),
        ("<think>\n\n</think>\n\nc", "", "c"),  # thinking that is turned off
        ("<think>a</think><thinking>b</thinking>c", "a\n\nb", "c"),
        ("a\n</think>\n\nb", "a", "b"),
        ("</think>b", "", "b"),
        ("the tags <think> and so on\n</think>\nb", "", "the tags <think> and so on\n</think>\nb"),
        ("`<think>` opens\n</think>\nb", "`<think>` opens", "b"),
        ("<think>I end with `</think>` then</think>b", "I end with `</think>` then", "b"),
        ("Write `</think>` at its end, and `x`.", "", "Write `</think>` at its end, and `x`."),
        ("```\na</think>b\n```", "", "```\na</think>b\n```"),
        ("See <think>a</think> here.", "", "See <think>a</think> here."),
        ("<p>a</p> <think", "", "<p>a</p> <think"),
        ("a <reasoning>b</reasoning> c", "", "a <reasoning>b</reasoning> c"),
    ],
)
def test_where_thinking_ends(text: str, thoughts: str, answer: str) -> None:
    completion = alone(text)
    assert (completion.reasoning, completion.text) == (thoughts, answer)


@pytest.mark.parametrize(
    ("fields", "reasoning", "text", "finish_reason"),
    [
        ({"text": "b", "reasoning": "a"}, "a", "b", "stop"),
        ({"text": "", "reasoning": "a", "finish_reason": "length"}, "a", "", CUT_WHILE_THINKING),
        ({"text": "", "reasoning": "a"}, "a", "", CUT_WHILE_THINKING),
        ({"text": "", "reasoning": "a", "finish_reason": "content_filter"}, "a", "", "content_filter"),
        ({"text": "", "reasoning": "a", "refusal": "No."}, "a", "", "stop"),
        ({"text": "", "reasoning": "a", "tool_calls": [{}], "finish_reason": "tool_calls"}, "a", "", "tool_calls"),
        ({"text": "<think>c</think>b", "reasoning": "a"}, "a\n\nc", "b", "stop"),
        ({"text": "<think>\na\n</think>\nb", "reasoning": " a "}, "a", "b", "stop"),
        ({"text": "<think>a</think>", "finish_reason": "stop"}, "a", "", "stop"),
        ({"text": "<think>a</think>", "finish_reason": "length"}, "a", "", CUT_WHILE_THINKING),
        ({"text": "<think>a", "finish_reason": "stop"}, "a", "", CUT_WHILE_THINKING),
        ({"text": "half an ans", "reasoning": "a", "finish_reason": "length"}, "a", "half an ans", "length"),
    ],
)
def test_fields_and_endings(fields: dict[str, Any], reasoning: str, text: str, finish_reason: str) -> None:
    completion = answer_alone(REQUEST, Completion(**fields), KEEP)
    assert (completion.reasoning, completion.text, completion.finish_reason) == (reasoning, text, finish_reason)


def test_settings() -> None:
    text = "<think>a</think>b"
    dropped = alone(text, ThinkingSettings.model_validate("drop"))
    assert (dropped.text, dropped.reasoning) == ("b", "")
    own = ThinkingSettings(marks=(("((", "))"),))
    assert alone("((a))b", own).reasoning == "a" and alone(text, own).text == text
    assert alone(text, ThinkingSettings(marks=())).text == text
    by_role = answers_alone([REQUEST], [Completion(text=text)], {"teacher": own})
    assert by_role[0].text == text


def test_choices() -> None:
    assert alone("<think>no?</think>\n yes \n", request=CHOICE).text == "yes"
    assert alone('<think>no?</think>{"choice": "yes"}', request=CHOICE).text == "yes"
    assert alone("yes", request=CHOICE, reasoning="no?").text == "yes"


def tokens(*texts: str) -> list[Any]:
    return [[text, -0.1, {}] for text in texts]


@pytest.mark.parametrize(
    ("texts", "answer", "left"),
    [
        (("<think>", "7?", "</think>", "\n\n", "8"), "8", ("8",)),
        (("<think>", "7?", "</think>", "\n\n", "8", "<|im_end|>"), "8", ("8", "<|im_end|>")),
        (("hm", "</think>", "yes", " it", " is"), "yes it is", ("yes", " it", " is")),
        (("hm", "</think>8"), "8", ("</think>8",)),
        (("Okay", ",", " the"), "8", None),
        (("8",), "8", ("8",)),
    ],
)
def test_log_probabilities_are_the_answers(texts: tuple[str, ...], answer: str, left: tuple[str, ...] | None) -> None:
    completion = alone(answer, reasoning="7?", logprobs=tokens(*texts))
    assert completion.text == answer
    assert completion.logprobs == (None if left is None else tokens(*left))
    assert alone(reasoning="7?", logprobs=tokens("7", "?")).logprobs is None


words = st.text(st.sampled_from("ab \n`<>/"), max_size=30)


@given(thoughts=words, answer=words, marks=st.sampled_from(MARKS), opened=st.booleans())
def test_nothing_is_lost(thoughts: str, answer: str, marks: tuple[str, str], opened: bool) -> None:
    opening, closing = marks
    text = f"{opening if opened else ''}{thoughts}{closing}{answer}"
    thinking, rest, closed = split_thinking(text, MARKS)
    assert closed
    if rest is text:  # the mark stands in code
        assert not thinking and not opened
    else:
        assert [thinking, rest] == [thoughts.strip(), answer.lstrip()]


@given(st.text(st.sampled_from("ab<>/ \n`[]think"), max_size=60))
def test_a_plain_answer_comes_back_as_it_is(text: str) -> None:
    completion = Completion(text=text)
    if not any(mark in text for pair in MARKS for mark in pair):
        assert answer_alone(REQUEST, completion, KEEP) is completion


def test_a_plain_answer_costs_next_to_nothing() -> None:
    completion = Completion(text="The river carries light over the stones. " * 100)
    once = min(timeit.repeat(lambda: answer_alone(REQUEST, completion, KEEP), number=2000, repeat=9)) / 2000
    assert once < 4e-6  # about 0.8 microseconds


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"finish_reason": CUT_WHILE_THINKING}, "cut_while_thinking: the answer ended in its thinking; raise"),
        ({"refusal": "I  cannot\nhelp."}, "refused_in_words: I cannot help."),
        ({"tool_calls": [{"id": "c"}], "finish_reason": "tool_calls"}, "tool_call: it called a tool"),
        ({"finish_reason": "content_filter"}, "filtered: the answer was broken off (content_filter)"),
        ({"finish_reason": "length"}, "empty_answer: max_tokens ended before the answer began"),
        ({"reasoning": "hm"}, "empty_answer: it thought, and then said nothing"),
        ({}, "empty_answer"),
    ],
)
def test_why_there_is_no_answer(fields: dict[str, Any], why: str) -> None:
    completion = Completion(text=" \n", **fields)
    assert why_empty(completion).startswith(why)
    fault = Drop("bad_form: it was no JSON object")
    reason = why.partition(":")[0]
    assert named_fault(completion, fault).reason == (fault.reason if reason == "empty_answer" else reason)
    with pytest.raises(Drop) as dropped:
        check_answered(completion, "empty_response: it was empty")
    assert dropped.value.reason == ("empty_response" if reason == "empty_answer" else reason)


def test_an_answer_that_is_there_keeps_its_own_fault() -> None:
    fault = Drop("bad_form")
    assert named_fault(Completion(text="x", refusal="No."), fault) is fault
    assert named_fault(Completion(text="", error="engine_error: gone"), fault) is fault
    check_answered(Completion(text="x"))
    assert with_thinking("b", "a") == "<think>\na\n</think>\n\nb" and with_thinking("b", "") == "b"
