"""Messages as tools spell them, contents in parts, and the many names of how an answer ended."""

import json
from typing import Any

import pytest

from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import as_message, content_in, known_role, message_in, role_in, text_in

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("system", ("system", "System", "developer", " DEVELOPER ")),
        ("user", ("user", "User", "human", "prompter")),
        ("assistant", ("assistant", "gpt", "bot", "model", "Agent", "ChatGPT")),
        ("tool", ("tool", "function", "ipython")),
        (None, ("narrator", "", 3, None)),
    ],
)
def test_roles_have_many_names(role: str | None, names: tuple[Any, ...]) -> None:
    for name in names:
        assert {role_in({field: name}) for field in ("role", "from", "speaker")} == {role}
    assert known_role({"role": "developer"}) == "system"
    with pytest.raises(Drop, match="unknown_role: 'narrator'; expected one of system"):
        known_role({"role": "narrator"})
    with pytest.raises(Drop, match="a message has no role"):
        known_role({"content": "x"})


def test_contents_are_texts_or_parts() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "text", "image_url": None}, "!"]
    assert (text_in(None), text_in("a"), text_in(parts), text_in([])) == (None, "a", "one text!", "")
    assert text_in([{"type": "thinking", "thinking": "hm"}, {"text": "said"}]) == "said"
    assert content_in({"from": "gpt", "value": parts}) == "one text!"
    assert content_in({"role": "assistant", "content": None, "tool_calls": []}) is None
    for part, kind in (
        (PICTURE, "image_url"),
        ({"image_url": {"url": "x"}}, "image_url"),
        ({"type": "image", "text": None}, "image"),
        ({"type": "image_url", "text": "", "image_url": {}}, "image_url"),
        ({"type": "input_audio", "input_audio": {}}, "input_audio"),
        ({}, "nothing"),
    ):
        with pytest.raises(Drop) as dropped:
            text_in([{"type": "text", "text": "What is in it?"}, part])
        assert dropped.value.reason == f"{kind} in content"
    for bad in (7, {"text": "x"}, [7]):
        with pytest.raises(Drop, match="bad_messages"):
            text_in(bad)


def test_a_message_may_be_an_object_in_json() -> None:
    message = {"role": "user", "content": "a"}
    assert as_message(json.dumps(message)) == as_message(message) == message
    assert [as_message(value) for value in ("{a text}", '{"n": 1}', "text", 7, None)] == [None] * 5
    with pytest.raises(Drop, match="bad_messages: a message is str"):
        message_in("text")


@pytest.mark.parametrize(
    ("ending", "reasons"),
    [
        ("stop", ("stop", "STOP", "eos_token", "end_turn", "tool_calls", "over", "", None)),
        ("stop", ("stop_sequence", "COMPLETE", "TOOL_CALL", "tool_use", "function_call", "FINISH_REASON_UNSPECIFIED")),
        ("length", ("length", "MAX_TOKENS", "max_tokens", "model_length", "model_context_window_exceeded")),
        ("content_filter", ("content_filter", "SAFETY", "RECITATION", "refusal", "abort", "guardrail_intervened")),
        ("content_filter", ("BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "OTHER", "MALFORMED_FUNCTION_CALL")),
        ("content_filter", ("pause_turn", "error", "ERROR", "repetition", "anything new")),
    ],
)
def test_an_answer_ends_in_one_of_three_ways(ending: str, reasons: tuple[str | None, ...]) -> None:
    assert {ending_of(reason) for reason in reasons} == {ending}
