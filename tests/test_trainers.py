"""What `make trainers` measures with: a reader that loses or changes something does not pass."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from trainers.before import LEAD, SHOWN, around_difference
from trainers.compare import compare
from trainers.expected import Chat, Expected

CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"place": "Köln"}'}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "here"},
    {"role": "assistant", "content": "Here."},
]
WENT_IN = Expected({"text": Chat(MESSAGES, json.dumps([TOOL]))})
TEXT = (
    f"<|im_start|>system\nBe brief.\n\n# Tools\n\n<tools>\n{json.dumps(TOOL)}\n</tools><|im_end|>\n"
    "<|im_start|>user\nWhere?<|im_end|>\n"
    '<|im_start|>assistant\n<tool_call>\n{"name": "find", "arguments": {"place": "Köln"}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\n<tool_response>\nhere\n</tool_response><|im_end|>\n<|im_start|>assistant\nHere.<|im_end|>\n"
)
CALLED = '<tool_call>\n{"arguments": {"place": "Köln"}, "name": "find"}\n</tool_call><|im_end|>'
TRAINED = [CALLED, "Here.<|im_end|>\n"]


def row(text: str = TEXT, trained: list[str] = TRAINED) -> Mapping[str, Any]:
    return {"rows": [{"text": text, "trained": trained}]}


def test_a_chat_that_comes_as_it_went_in() -> None:
    verdict = compare(row(), [WENT_IN])
    assert verdict.is_right and verdict.learned == {"the answers": 1}
    parts = {"system", "prompt", "answers", "tools", "calls", "results", "order"}
    assert set(verdict.present) == parts


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ("Be brief.", "You are helpful.", "system"),
        ("Where?", "", "prompt"),
        ("\nHere.", "\n{'role': 'assistant', 'content': 'Here.'}", "answers"),
        ('{"place": "Köln"}', '"{\\"place\\": \\"Köln\\"}"', "calls"),
        ('"parameters": {}', '"parameters": {"place": null}', "tools"),
        ("<tool_response>\nhere\n</tool_response>", "", "results"),
    ],
)
def test_what_a_reader_loses_is_seen(before: str, after: str, part: str) -> None:
    assert set(compare(row(TEXT.replace(before, after)), [WENT_IN]).wrong) == {part}


def test_what_is_under_the_loss() -> None:
    header = "<|im_start|>assistant\n"
    assert compare(row(trained=[TEXT]), [WENT_IN]).learned == {"everything": 1}
    assert compare(row(trained=TRAINED[1:]), [WENT_IN]).learned == {"the last message alone": 1}
    assert compare(row(trained=[]), [WENT_IN]).learned == {"no token": 1}
    with_header = compare(row(trained=[header + span for span in TRAINED]), [WENT_IN])
    assert with_header.learned == {"the answers with their header": 1}
    completion = Expected({"text": Chat(MESSAGES, json.dumps([TOOL]), first=4)})
    assert compare(row(), [completion]).learned == {"the answers, and those of the prompt": 1}


def test_rows_that_are_gone_or_that_a_reader_refuses() -> None:
    other = Expected({"text": Chat([{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}])})
    verdict = compare(row(), [other, WENT_IN])
    assert verdict.rows == (1, 2) and not verdict.wrong and not verdict.is_right
    assert not compare({"error": "KeyError: 'messages'"}, [WENT_IN]).is_right


def test_what_becomes_of_thinking() -> None:
    answer = {"role": "assistant", "content": "So.", "reasoning_content": "Hm."}
    went_in = Expected({"text": Chat([{"role": "user", "content": "Why?"}, answer])})
    start, thought, end = (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        "<think>\nHm.\n</think>\n\n",
        "So.",
    )
    for text, trained, what in (
        (start + thought + end, thought + end, "learned"),
        (start + thought + end, end, "read"),
        (start + end, end, "gone"),
    ):
        verdict = compare(row(text, [trained]), [went_in])
        assert verdict.thinking == {what: 1} and verdict.is_right == (what != "gone")


def test_rewards_are_those_of_the_reference_answer_and_of_another_one() -> None:
    went_in = Expected({"text": Chat(MESSAGES[1:2])}, columns={"answer": "4"})
    prompt = {"text": "<|im_start|>user\nWhere?<|im_end|>\n", "columns": {"answer": "4"}}
    right, wrong = ({"rows": [{**prompt, "rewards": rewards}]} for rewards in ([1.0, 0.0], [1.0, 1.0]))
    assert compare(right, [went_in]).is_right
    verdict = compare(wrong, [went_in])
    assert set(verdict.wrong) == {"rewards"} and verdict.wrong_places == [0]


def test_before_and_after_are_shown_where_they_part() -> None:
    before, after = around_difference("a" * 500 + "b" * 500, "a" * 500 + "c" * 500)
    assert before == "… " + "a" * LEAD + "b" * (SHOWN - LEAD) and after.endswith("c" * (SHOWN - LEAD))
    assert around_difference("", "abc") == ["", "abc"]
