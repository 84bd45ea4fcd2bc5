"""Streams of server-sent events are put together into the completions that they are."""

import json
from typing import Any

import pytest

from synthmill.tasks.engines import waits
from synthmill.tasks.engines.event_streams import completion_of_stream, is_stream
from synthmill.tasks.engines.replies import ErrorAnswer
from tests.odd_server import events, odd_server, refused, said
from tests.tasks.test_engines import SCHEMA, ask, asked, one


def part(index: int = 0, finish: str | None = None, **delta: Any) -> str:
    return json.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}})
WHOLE = (
    part(role="assistant", content=""),
    part(reasoning_content="I th"),
    part(reasoning_content="ink."),
    part(content="Hel"),
    part(content="lo ☃"),
    part(finish="stop"),
    USAGE,
    "[DONE]",
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "BACKOFF_S", 0.001)


def test_a_stream_is_put_together_with_its_usage() -> None:
    with odd_server(lambda body: events(*WHOLE)) as server:
        answer = one({"spec": server.spec, "stream": True}, asked())
        assert (answer.text, answer.reasoning, answer.finish_reason) == ("Hello ☃", "I think.", "stop")
        assert (answer.prompt_tokens, answer.completion_tokens) == (5, 9)
        [body] = server.bodies
        assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
        assert one(server.spec, asked()).text == "Hello ☃"  # a server that streams whatever it was asked for


def test_several_choices_and_calls_come_in_pieces() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "answer", "arguments": '{"a": "x",'}}
    rest = {"index": 0, "function": {"arguments": ' "b": 1}'}}
    chunks = (
        part(1, content="b"),
        part(0, tool_calls=[call]),
        part(0, tool_calls=[rest]),
        part(1, "stop"),
        part(0, "tool_calls"),
    )
    with odd_server(lambda body: events(*chunks)) as server:
        [[first, second]] = ask(
            {"spec": server.spec, "stream": True, "structure": "tool"}, asked(schema_=SCHEMA), count=2
        )
    assert (json.loads(first.text), second.text) == ({"a": "x", "b": 1}, "b")


@pytest.mark.parametrize(
    "broken", [WHOLE[:4], (*WHOLE[:3], json.dumps({"error": {"message": "overloaded", "code": 503}}))]
)
def test_what_breaks_off_or_fails_in_the_middle_is_asked_again(broken: tuple[str, ...]) -> None:
    with odd_server(lambda body: events(*(broken if len(server.bodies) < 3 else WHOLE))) as server:
        assert one({"spec": server.spec, "stream": True}, asked()).text == "Hello ☃"
        assert len(server.bodies) == 3


def test_stream_options_that_a_server_does_not_know_are_left_out() -> None:
    def answer(body: dict[str, Any]) -> Any:
        return refused("unknown field stream_options") if "stream_options" in body else events(*WHOLE[:-2], "[DONE]")

    with odd_server(answer) as server:
        assert one({"spec": server.spec, "stream": True}, asked("question")).text == "Hello ☃"


def test_events_in_all_their_forms() -> None:
    lines = (
        ": comment\r\n\r\n",
        f"event: x\r\nid: 1\r\ndata:{WHOLE[3]}\r\n\r\n",
        f"data: {WHOLE[4]}\n\n",
        f"data: {WHOLE[5]}",
    )
    body = "".join(lines).encode()
    assert is_stream(body) and not is_stream(json.dumps(said()).encode())
    assert completion_of_stream(body)["choices"][0]["message"] == {"content": "Hello ☃"}
    with pytest.raises(ErrorAnswer):
        completion_of_stream(b'data: {"error": {"message": "no"}}\n\n')
    with pytest.raises(ValueError, match="ended before its end"):
        completion_of_stream(f"data: {WHOLE[3]}\n\n".encode())
