"""Anthropic's Messages API, natively: what is sent, what is read, and what becomes of errors."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from synthmill.schemas.calls import Completion, Message, Request, Sampling, ToolMessage
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import EngineError, EngineLearned, EngineRefused, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.learned import learn
from synthmill.tasks.engines.anthropic_messages import messages_body
from synthmill.tasks.engines.engine import engine_name, make_engine, resolve
from synthmill.tasks.texts.thinking import why_empty
from tests.messages_server import MessagesServer, error, message, messages_server

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "Find it.", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[MessagesServer]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", MessagesServer.key)
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.001)
    with messages_server(MessagesServer()) as server:
        yield server


def asked(*turns: Any, **fields: Any) -> Request:
    messages = tuple(turn if isinstance(turn, Message) else Message(role=turn[0], content=turn[1]) for turn in turns)
    return Request(role="teacher", messages=messages or (Message(role="user", content="hello"),), **fields)


def ask(spec: Any, *requests: Request, count: int = 1) -> list[Any]:
    async def run() -> list[Any]:
        engine = make_engine(EngineSettings.model_validate(spec))
        await engine.open()
        try:
            return await asyncio.gather(*(engine.complete(r, 7, count) for r in requests), return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(run())


def one(server: MessagesServer, request: Request, **settings: Any) -> Completion:
    [result] = ask({"spec": server.spec, **settings}, request)
    assert not isinstance(result, BaseException), result
    completion = result[0]
    assert isinstance(completion, Completion)
    return completion


def test_the_system_stands_apart_and_turns_of_one_role_are_one(claude: MessagesServer) -> None:
    turns = (("system", "Be brief."), ("user", "one"), ("user", "two"), ("assistant", ""), ("system", "Be kind."))
    sampling = Sampling(temperature=0.4, top_p=0.9, max_tokens=50, stop=("END",))
    request = asked(*turns, ("user", "3"), sampling=sampling)
    completion = one(claude, request)
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens) == ("answer 0", 11, 5)
    [body] = claude.requests
    assert [block["text"] for block in body["system"]] == ["Be brief.", "Be kind."]
    assert [[block["text"] for block in turn["content"]] for turn in body["messages"]] == [["one", "two", "3"]]
    assert (body["temperature"], body["max_tokens"], body["stop_sequences"]) == (0.4, 50, ["END"])
    assert "top_p" not in body  # newer models refuse both


def test_several_answers_are_several_requests_in_order(claude: MessagesServer) -> None:
    [answers] = ask(claude.spec, asked(), count=5)
    assert sorted(answer.text for answer in answers) == [f"answer {n}" for n in range(5)]
    assert len(claude.requests) == 5


def test_thinking_is_kept_apart_with_what_was_hidden_counted(claude: MessagesServer) -> None:
    claude.answer = lambda body, number: message(
        {"type": "thinking", "thinking": "Two and two.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eA=="},
        "Four.",
        usage={
            "input_tokens": 3,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 7,
            "output_tokens": 40,
        },
    )
    completion = one(claude, asked(sampling=Sampling(temperature=0.2, max_tokens=100)), thinking={"tokens": 2000})
    assert (completion.text, completion.reasoning) == ("Four.", "Two and two.")
    assert completion.prompt_tokens == 110  # the API's input_tokens leave out what the cache took and gave
    assert completion.usage is not None
    assert completion.usage["cache_read_input_tokens"] == 7
    assert completion.usage["redacted_thinking_blocks"] == 1
    [body] = claude.requests
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert body["max_tokens"] == 2100  # max_tokens is the answer's alone
    assert "temperature" not in body


@pytest.mark.parametrize(
    ("thinking", "sent"),
    [
        ("keep", {}),
        ("off", {"thinking": {"type": "disabled"}}),
        ({"effort": "low"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
    ],
)
def test_how_thinking_is_asked_for(claude: MessagesServer, thinking: Any, sent: dict[str, Any]) -> None:
    one(claude, asked(), thinking=thinking)
    [body] = claude.requests
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == sent


@pytest.mark.parametrize(
    ("thinking", "says"), [({"tokens": 500}, "1024 or more"), ({"effort": "minimal"}, "low, medium")]
)
def test_thinking_that_the_api_does_not_know(thinking: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EngineSettings.model_validate({"spec": "anthropic:m", "thinking": thinking})


def test_a_form_is_a_forced_tool(claude: MessagesServer) -> None:
    def answer(body: dict[str, Any], number: int) -> dict[str, Any]:
        tool = {"type": "tool_use", "id": "toolu_1", "name": body["tool_choice"]["name"]}
        schema = body["tools"][0]["input_schema"]
        value = (
            {"choice": "yes"}
            if "choice" in schema["properties"]
            else {"a": "x"}
            if "a" in schema["properties"]
            else None
        )
        return message(tool | {"input": value or {"answer": [1, 2]}}, stop="tool_use")

    claude.answer = answer
    assert json.loads(one(claude, asked(schema_=SCHEMA)).text) == {"a": "x"}
    assert one(claude, asked(choice=("yes", "no"))).text == "yes"
    numbers = one(claude, asked(schema_={"type": "array", "items": {"type": "integer"}}))
    assert (numbers.text, numbers.tool_calls) == ("[1,2]", None)


def test_a_form_with_thinking_is_a_format_because_no_tool_may_be_forced(claude: MessagesServer) -> None:
    claude.answer = lambda body, number: message('{"a": "x"}')
    assert json.loads(one(claude, asked(schema_=SCHEMA), thinking={"effort": "high"}).text) == {"a": "x"}
    [body] = claude.requests
    assert body["output_config"] == {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}}
    assert "tools" not in body


def test_tool_calls_and_the_thoughts_before_them_go_back(claude: MessagesServer) -> None:
    thought = {"type": "thinking", "thinking": "Look it up.", "signature": "c2ln"}
    call = {"type": "tool_use", "id": "toolu_9", "name": "find", "input": {"id": "7"}}
    claude.answer = lambda body, number: (
        message(thought, "One moment.", call, stop="tool_use") if not number else message("ok")
    )
    completion = one(claude, asked(("user", "find 7"), tools=(TOOL,)), thinking={"effort": "low"})
    assert completion.tool_calls is not None
    assert completion.tool_calls[0]["function"] == {"name": "find", "arguments": '{"id":"7"}'}
    assert ending_of(completion.finish_reason) == "stop"
    turns = [
        Message(role="user", content="find 7"),
        ToolMessage(role="assistant", content=completion.text, tool_calls=tuple(completion.tool_calls)),
        ToolMessage(role="tool", content='{"item": "rake"}', tool_call_id="toolu_9"),
    ]
    assert one(claude, asked(*turns, tools=(TOOL,)), thinking={"effort": "low"}).text == "ok"
    assert claude.requests[1]["messages"][1]["content"] == [thought, {"type": "text", "text": "One moment."}, call]
    assert claude.requests[1]["messages"][2]["content"][0]["tool_use_id"] == "toolu_9"


def test_the_cache_is_marked_where_requests_begin_alike(claude: MessagesServer) -> None:
    turns = (("system", "rules"), ("user", "1"), ("assistant", "2"), ("user", "3"))
    one(claude, asked(*turns), cache=True)
    one(claude, asked(*turns, sample=1), cache=True)
    one(claude, asked(*turns))
    first, again, plain = (
        [place for place, block in blocks_of(body) if "cache_control" in block] for body in claude.requests
    )
    assert first == ["system", 1]
    assert again == ["system", 1, 2]  # the prompt is asked more than once
    assert plain == []


def blocks_of(body: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    yield from (("system", block) for block in body["system"])
    yield from ((place, block) for place, turn in enumerate(body["messages"]) for block in turn["content"])


@pytest.mark.parametrize(
    ("stop", "more", "ending", "why"),
    [
        ("max_tokens", {}, "length", "empty_answer: max_tokens"),
        ("model_context_window_exceeded", {}, "length", "empty_answer: max_tokens"),
        (
            "refusal",
            {"stop_details": {"type": "refusal", "category": "bio"}},
            "content_filter",
            "refused_in_words: bio",
        ),
        ("pause_turn", {}, "content_filter", "filtered"),
        ("stop_sequence", {}, "stop", "empty_answer"),
    ],
)
def test_how_answers_end(claude: MessagesServer, stop: str, more: dict[str, Any], ending: str, why: str) -> None:
    claude.answer = lambda body, number: message(stop=stop, **more)
    completion = one(claude, asked())
    assert ending_of(completion.finish_reason) == ending
    assert why_empty(completion).startswith(why)


@pytest.mark.parametrize(
    "fault",
    [
        error(529, "overloaded_error", "Overloaded"),
        error(500, "overloaded_error", "Overloaded"),
        error(200, "overloaded_error", "Overloaded"),
        error(429, "rate_limit_error", "slow down", retry_after="0"),
        error(500, "api_error", "Internal server error"),
        (200, {"type": "message", "content": None}, {}),
    ],
)
def test_what_passes_is_waited_for(claude: MessagesServer, fault: Any) -> None:
    claude.answer = lambda body, number: fault if number < 3 else message("there")
    assert one(claude, asked()).text == "there"
    assert len(claude.requests) == 4


def test_an_overloaded_server_is_asked_less_and_then_more(claude: MessagesServer) -> None:
    claude.answer = lambda body, number: (
        error(529, "overloaded_error", "Overloaded") if number < 8 else message("there")
    )

    async def run() -> tuple[int, int]:
        engine = make_engine(EngineSettings.model_validate({"spec": claude.spec, "concurrency": 8}))
        await engine.open()
        await asyncio.gather(*(engine.complete(asked(), 1, 1) for _ in range(8)))
        slowed = engine.limit
        for _ in range(60):
            await engine.complete(asked(), 1, 1)
        await engine.close()
        return slowed, engine.limit

    slowed, recovered = asyncio.run(run())
    assert slowed < 8
    assert recovered == 8


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (error(401, "authentication_error", "invalid x-api-key"), "valid key.*ANTHROPIC_API_KEY was refused"),
        (error(402, "billing_error", "pay"), "wants to be paid"),
        (error(400, "invalid_request_error", "Your credit balance is too low to access the API."), "wants to be paid"),
        (error(404, "not_found_error", "model: claude-local"), "knows no model 'claude-local'"),
    ],
)
def test_what_will_never_be_answered_stops_at_once(claude: MessagesServer, fault: Any, says: str) -> None:
    claude.answer = lambda body, number: fault
    [refused] = ask(claude.spec, asked())
    assert isinstance(refused, EngineRefused)
    assert re.search(says, refused.message)
    assert len(claude.requests) <= 2
    assert MessagesServer.key not in refused.message


def test_errors_in_the_middle_of_a_run_are_their_rows_alone(claude: MessagesServer) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        text = body["messages"][0]["content"][0]["text"]
        if text == "long":
            return error(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum")
        if text == "broken":
            return error(500, "api_error", "Internal server error")
        return message("fine")

    claude.answer = answer
    requests = [asked(("user", text)) for text in ("a", "b", "long", "broken")]
    good, other, long, broken = (result[0] for result in ask({"spec": claude.spec, "retries": 1}, *requests))
    assert good.text == other.text == "fine"
    assert long.error.startswith("context_overflow: 400: invalid_request_error: prompt is too long")
    assert broken.error.startswith("engine_error: 500: api_error: Internal server error (2 attempts")


def test_a_server_that_is_gone_is_one_error(claude: MessagesServer) -> None:
    claude.answer = lambda body, number: error(500, "api_error", "down")
    [gone] = ask({"spec": claude.spec, "retries": 1}, asked())
    assert isinstance(gone, EngineError)
    assert not isinstance(gone, EngineRefused)
    assert "does not answer (HTTP 500: api_error: down)" in gone.message


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(EngineRefused, match="anthropic wants a key; set the environment variable ANTHROPIC_API_KEY"):
        ask("anthropic:claude-local", asked())


def test_log_probabilities_are_refused_by_name(claude: MessagesServer) -> None:
    [refused] = ask(claude.spec, asked(sampling=Sampling(logprobs=5)))
    assert isinstance(refused, EngineRefused)
    assert "gives no log probabilities" in refused.message


def test_options_win_and_null_leaves_out() -> None:
    options = {"temperature": None, "top_p": 0.5, "metadata": {"user_id": "u"}}
    settings = EngineSettings.model_validate({"spec": "anthropic:m", "options": options})
    body = messages_body(asked(), settings)
    assert "temperature" not in body
    assert (body["top_p"], body["metadata"]) == (0.5, {"user_id": "u"})


def test_the_name_holds_what_decides_answers_and_never_an_address(claude: MessagesServer, store: Store) -> None:
    settings = EngineSettings.model_validate(claude.spec)
    assert engine_name(settings) == "anthropic:claude-local"
    assert engine_name(EngineSettings.model_validate({"spec": claude.spec, "cache": True})) == "anthropic:claude-local"
    thinks = EngineSettings.model_validate({"spec": claude.spec, "thinking": {"tokens": 2048}})
    assert engine_name(thinks).startswith("anthropic:claude-local+")
    assert resolve(settings, store) == settings


def test_a_field_that_is_refused_is_named_or_left_out(claude: MessagesServer, store: Store) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if "temperature" in body:
            return error(400, "invalid_request_error", "temperature: Extra inputs are not permitted")
        return message("well")

    claude.answer = answer
    [stopped] = ask(claude.spec, asked())
    assert isinstance(stopped, EngineRefused)
    assert "options={temperature: null}" in stopped.message and "--auto-drop" in stopped.message
    [lesson] = ask({"spec": claude.spec, "auto_drop": True}, asked())
    assert isinstance(lesson, EngineLearned)
    settings = EngineSettings.model_validate({"spec": claude.spec, "auto_drop": True})
    learn(store, settings.model, claude.url, {"options": {"temperature": None}})
    known = resolve(settings, store)
    assert known.options == {"temperature": None} and engine_name(known) != engine_name(settings)


def test_forms_are_asked_for_as_settings_say_or_refusals_teach(claude: MessagesServer) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if "tools" in body:
            return error(400, "invalid_request_error", "tools are not supported by this model")
        return message('It is {"a": "x"}.' if "output_config" not in body else '{"a": "y"}')

    claude.answer = answer
    request = asked(schema_=SCHEMA)
    [lesson] = ask(claude.spec, request)
    assert isinstance(lesson, EngineLearned) and "structure=none from now on" in lesson.message
    assert one(claude, request, structure="auto:none").text == 'It is {"a": "x"}.'
    assert "JSON schema" in claude.requests[-1]["messages"][-1]["content"][-1]["text"]
    assert one(claude, request, structure="json_schema").text == '{"a": "y"}'
    with pytest.raises(InputError, match="by json_schema, tool, none here, and structure is json_object"):
        one(claude, request, structure="json_object")


def test_headers_and_query_of_a_gateway(claude: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", MessagesServer.key)
    assert one(claude, asked(), headers={"anthropic-beta": "PATH"}).text == "answer 0"  # beside the key
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert one(claude, asked(), headers={"x-api-key": "GATEWAY_KEY"}).text == "answer 1"
    [refused] = ask({"spec": claude.spec, "query": {"api-version": "1"}, "headers": {"x-api-key": "PATH"}}, asked())
    assert isinstance(refused, EngineRefused)


def test_tokens_that_are_not_reported_are_counted(claude: MessagesServer) -> None:
    claude.answer = lambda body, number: {**message("Seven birds draw circles."), "usage": {}}
    completion = one(claude, asked())
    assert completion.estimated and completion.completion_tokens > 0 < completion.prompt_tokens


def test_who_waits_for_it_is_on_the_progress_line(claude: MessagesServer) -> None:
    claude.answer = lambda body, number: error(429, "rate_limit_error", "slow down", retry_after="60")

    async def run() -> Any:
        engine: Any = make_engine(EngineSettings.model_validate(claude.spec))
        await engine.open()
        asking = asyncio.create_task(engine.complete(asked(), 1, 1))
        while not (waiting := engine.waits.summary()):
            await asyncio.sleep(0.01)
        engine.stop()
        await asking
        await engine.close()
        return waiting

    waiting = asyncio.run(run())
    assert (waiting.requests, waiting.reason) == (1, "429: rate_limit_error: slow down")
