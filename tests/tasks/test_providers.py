"""Gemini and Bedrock through any-llm: what is sent and read, on local servers that speak their REST; and, without the
client, how its answers and errors are read.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import pytest

from synthmill.schemas.calls import Completion, Message, Request, Sampling, ToolMessage
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import EngineLearned, EngineRefused, InputError, MissingExtra
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.engine import engine_name, make_engine
from synthmill.tasks.engines.provider_client import completion_fields
from synthmill.tasks.engines.provider_replies import error_reply, read_completion, thrown_status
from synthmill.tasks.engines.refusals import ErrorAnswer
from synthmill.tasks.engines.served import server_url
from synthmill.tasks.engines.waits import wait_s
from tests.json_server import Reply, json_server

with_client = pytest.mark.skipif(find_spec("any_llm") is None, reason="any-llm is not installed (extra `providers`)")
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
FIND = {
    "type": "function",
    "function": {"name": "find", "description": "Find it.", "parameters": {"type": "object", "properties": {}}},
}
Answer = Callable[[dict[str, Any], int], tuple[int, dict[str, Any]]]


class RestServer:
    """Answers POST with `answer(body, number)`. asked: (path, headers, body)."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.url = ""


@contextmanager
def rest_server(answer: Answer) -> Iterator[RestServer]:
    server = RestServer(answer)

    def reply(path: str, headers: dict[str, str], data: bytes) -> Reply:
        body = json.loads(data)
        server.asked.append((unquote(path), headers, body))
        return *server.answer(body, len(server.asked) - 1), {}

    with json_server(reply) as server.url:
        yield server


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.001)
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-id")  # a bearer token goes over https only
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


def asked(*messages: Message, **fields: Any) -> Request:
    return Request(role="teacher", messages=messages or (Message(role="user", content="hello"),), **fields)


def one(spec: Any, request: Request) -> Completion:
    async def run() -> Any:
        engine = make_engine(EngineSettings.model_validate(spec))
        await engine.open()
        try:
            return await engine.complete(request, 7, 1)
        finally:
            await engine.close()

    [completion] = asyncio.run(run())
    assert isinstance(completion, Completion)
    return completion


def gemini_answer(*parts: dict[str, Any], finish: str = "STOP") -> tuple[int, dict[str, Any]]:
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 30, "totalTokenCount": 43}
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return 200, {"candidates": [candidate], "usageMetadata": usage | {"cachedContentTokenCount": 5}}


@with_client
def test_gemini_is_asked_in_its_own_words() -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        return gemini_answer({"text": "Two and two.", "thought": True}, {"text": "Four."})

    with rest_server(answer) as server:
        spec = {"spec": f"gemini:gemini-2.5-flash@{server.url}", "thinking": {"tokens": 512}}
        messages = (Message(role="system", content="Be brief."), Message(role="user", content="2 + 2"))
        sampling = Sampling(temperature=0.3, top_p=0.8, max_tokens=50, stop=("END",))
        completion = one(spec, asked(*messages, sampling=sampling))
    [(path, headers, body)] = server.asked
    assert path.endswith("/models/gemini-2.5-flash:generateContent")
    assert headers["x-goog-api-key"] == "planted-key"
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert body["contents"] == [{"role": "user", "parts": [{"text": "2 + 2"}]}]
    config = body["generationConfig"]
    assert (config["temperature"], config["topP"], config["maxOutputTokens"], config["seed"]) == (0.3, 0.8, 562, 7)
    thinking = config["thinkingConfig"]  # versions of the client write its fields either way
    assert {name.lower().replace("_", ""): value for name, value in thinking.items()} == {
        "includethoughts": True,
        "thinkingbudget": 512,
    }
    assert (completion.text, completion.reasoning) == ("Four.", "Two and two.")
    assert (completion.prompt_tokens, completion.completion_tokens) == (9, 34)  # thinking is paid for
    assert completion.usage is not None
    assert completion.usage["prompt_tokens_details"]["cached_tokens"] == 5
    assert completion.usage["completion_tokens_details"]["reasoning_tokens"] == 30


@with_client
def test_gemini_sends_only_what_is_set_and_keeps_to_a_form() -> None:
    with rest_server(lambda body, number: gemini_answer({"text": '{"a": "x"}'})) as server:
        options = {"temperature": None, "top_p": None}
        completion = one({"spec": f"gemini:g@{server.url}", "options": options}, asked(schema_=SCHEMA))
    config = server.asked[0][2]["generationConfig"]
    assert json.loads(completion.text) == {"a": "x"}
    assert config.keys() == {"maxOutputTokens", "seed", "responseMimeType", "responseJsonSchema"}
    assert config["responseJsonSchema"] == SCHEMA


@with_client
def test_gemini_waits_and_gives_up_as_servers_do() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"}]
    busy = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down", "details": details}}
    with rest_server(lambda body, number: (429, busy) if number < 3 else gemini_answer({"text": "ok"})) as server:
        assert one(f"gemini:g@{server.url}", asked()).text == "ok"
    assert len(server.asked) == 4
    blocked = (200, {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    with rest_server(lambda body, number: blocked) as server:
        completion = one(f"gemini:g@{server.url}", asked())
    assert (completion.text, ending_of(completion.finish_reason)) == ("", "content_filter")
    wrong = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid. Pass a valid key."}}
    with rest_server(lambda body, number: (400, wrong)) as server, pytest.raises(EngineRefused, match="GEMINI_API_KEY"):
        one(f"gemini:g@{server.url}", asked())


@with_client
def test_gemini_calls_tools_and_reads_results() -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        call = {"functionCall": {"name": "find", "args": {"id": "7"}}, "thoughtSignature": "c2ln"}
        return gemini_answer(call) if not number else gemini_answer({"text": "done"})

    with rest_server(answer) as server:
        spec, user = f"gemini:g@{server.url}", Message(role="user", content="find 7")
        completion = one(spec, asked(user, tools=(FIND,)))
        assert completion.tool_calls is not None
        [call] = completion.tool_calls
        assert call["function"] == {"name": "find", "arguments": '{"id": "7"}'}
        turns = (
            ToolMessage(role="assistant", content="", tool_calls=(call,)),
            ToolMessage(role="tool", content='{"item": "rake"}', tool_call_id=call["id"]),
        )
        assert one(spec, asked(user, *turns, tools=(FIND,))).text == "done"
    contents = server.asked[1][2]["contents"]
    assert contents[1]["parts"][0] == {
        "functionCall": {"name": "find", "args": {"id": "7"}},
        "thoughtSignature": "c2ln",
    }
    assert contents[2]["parts"][0]["functionResponse"] == {"name": "find", "response": {"item": "rake"}}


@with_client
def test_gemini_refuses_fields_and_forms_as_servers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        config = body.get("generationConfig", {})
        for name in ("topP", "responseJsonSchema"):
            if name in config:
                message = f"{name} is not supported by this model"
                return 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": message}}
        return gemini_answer({"text": '{"a": "x"}'})

    monkeypatch.setenv("GATEWAY_KEY", "gateway")
    with rest_server(answer) as server:
        spec = f"gemini:g@{server.url}"
        with pytest.raises(EngineRefused, match=r"refuses top_p .*options=\{top_p: null\}"):
            one(spec, asked())
        plain = {"spec": spec, "options": {"top_p": None}, "headers": {"x-gateway": "GATEWAY_KEY"}}
        with pytest.raises(EngineLearned, match="structure=tool from now on"):
            one(plain, asked(schema_=SCHEMA))
        assert json.loads(one({**plain, "structure": "none"}, asked(schema_=SCHEMA)).text) == {"a": "x"}
        assert server.asked[-1][1]["x-gateway"] == "gateway"


def converse_answer(*blocks: dict[str, Any], stop: str = "end_turn") -> tuple[int, dict[str, Any]]:
    usage = {
        "inputTokens": 9,
        "outputTokens": 4,
        "totalTokens": 18,
        "cacheReadInputTokens": 5,
        "cacheWriteInputTokens": 0,
    }
    message = {"role": "assistant", "content": list(blocks)}
    return 200, {"output": {"message": message}, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}}


@with_client
def test_bedrock_is_asked_in_its_own_words() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "Two and two.", "signature": "s"}}}
    with rest_server(lambda body, number: converse_answer(thought, {"text": "Four."})) as server:
        messages = (Message(role="system", content="Be brief."), Message(role="user", content="2 + 2"))
        sampling = Sampling(temperature=0.3, top_p=0.8, max_tokens=50)
        completion = one(f"bedrock:amazon.nova-lite-v1:0@{server.url}", asked(*messages, sampling=sampling))
    [(path, headers, body)] = server.asked
    assert path == "/model/amazon.nova-lite-v1:0/converse"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=planted-id/")
    assert body["system"] == [{"text": "Be brief."}]
    assert body["inferenceConfig"] == {"maxTokens": 50, "temperature": 0.3, "topP": 0.8}
    assert (completion.text, completion.reasoning) == ("Four.", "Two and two.")
    assert (completion.prompt_tokens, completion.completion_tokens) == (14, 4)
    assert completion.usage is not None
    assert completion.usage["cacheReadInputTokens"] == 5
    assert completion.finish_reason == "end_turn"


@with_client
def test_bedrock_says_when_an_answer_was_filtered_and_keeps_to_a_form() -> None:
    with rest_server(lambda body, number: converse_answer({"text": "Sor"}, stop="guardrail_intervened")) as server:
        completion = one(f"bedrock:m@{server.url}", asked())
    assert ending_of(completion.finish_reason) == "content_filter"
    use = {"toolUse": {"toolUseId": "t1", "name": "answer", "input": {"a": "x"}}}
    with rest_server(lambda body, number: converse_answer(use, stop="tool_use")) as server:
        completion = one(f"bedrock:m@{server.url}", asked(schema_=SCHEMA))
    assert json.loads(completion.text) == {"a": "x"}
    assert server.asked[0][2]["toolConfig"]["toolChoice"] == {"any": {}}


@with_client
def test_bedrock_waits_once_per_attempt_of_ours() -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        return (429, {"message": "Too many requests"}) if number < 3 else converse_answer({"text": "ok"})

    with rest_server(answer) as server:
        assert one(f"bedrock:m@{server.url}", asked()).text == "ok"
    assert len(server.asked) == 4


@pytest.mark.skipif(find_spec("any_llm") is not None, reason="any-llm is installed")
def test_without_the_extra_the_remedy_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'synthmill\[providers\]'"):
        engine_name(EngineSettings.model_validate("gemini:gemini-2.5-flash"))


def test_a_provider_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [server_url(EngineSettings.model_validate(f"{kind}:m")) for kind in ("gemini", "bedrock")] == [
        "gemini",
        "bedrock",
    ]
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "localhost:80")
    with pytest.raises(InputError, match="no address of a server"):
        server_url(EngineSettings.model_validate("gemini:m"))


def fields(spec: Any, **asking: Any) -> dict[str, Any]:
    return completion_fields(asked(**asking), 7, EngineSettings.model_validate(spec))


def test_what_each_provider_takes() -> None:
    assert fields("gemini:g")["seed"] == 7
    assert "seed" not in fields("bedrock:amazon.nova-lite-v1:0")
    claude = fields("bedrock:us.anthropic.claude-x-v1:0")
    assert "temperature" in claude
    assert "top_p" not in claude  # it refuses both
    thinks = fields({"spec": "bedrock:us.anthropic.claude-x-v1:0", "thinking": {"tokens": 2000}}, schema_=SCHEMA)
    assert thinks["additionalModelRequestFields"] == {"reasoning_config": {"type": "enabled", "budget_tokens": 2000}}
    assert not {"temperature", "top_p", "tool_choice"} & thinks.keys()
    off = fields({"spec": "gemini:g", "thinking": "off", "options": {"seed": None}})
    assert off["thinking_config"] == {"thinking_budget": 0}
    assert "seed" not in off


class Thrown(Exception):
    def __init__(self, text: str = "no", **fields: Any) -> None:
        super().__init__(text)
        self.__dict__.update(fields)


class ReadTimeoutError(Exception): ...


class EndpointConnectionError(Exception): ...


class Response:
    headers = {"retry-after": "2"}  # noqa: RUF012
    status_code = 503


def aws(code: str, status: int, **headers: str) -> dict[str, Any]:
    return {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (Thrown(code=429, details={"error": {"details": [{"retryDelay": "17s"}]}}), 429, 17.0),
        (Thrown(response=Response()), 503, 2.0),
        (Thrown(original_exception=Thrown(status_code=404)), 404, None),
        (Thrown(response=aws("ThrottlingException", 400, **{"retry-after": "3"})), 429, 3.0),
        (Thrown(response=aws("ModelTimeoutException", 408)), 408, None),
        (Thrown(response=aws("Unheard", 418)), 418, None),
        (TimeoutError(), 0, None),
        (ReadTimeoutError(), 0, None),
        (EndpointConnectionError(), 0, None),
        (ConnectionRefusedError(), 0, None),
        (ValueError("no such parameter"), 400, None),
    ],
)
def test_errors_of_any_client_are_statuses(error: Exception, status: int, wait: float | None) -> None:
    read, _, headers = error_reply(error, 5)
    assert (read, wait_s(headers)) == (status, wait)


def test_a_wrong_key_is_no_bad_request() -> None:
    assert thrown_status(400, "400 INVALID_ARGUMENT. API key not valid.") == 401
    assert thrown_status(400, "400 INVALID_ARGUMENT. bad schema") == 400


def test_bedrock_has_one_name_for_its_key() -> None:
    with pytest.raises(ValueError, match="bedrock's client reads AWS_BEARER_TOKEN_BEDROCK"):
        EngineSettings.model_validate({"spec": "bedrock:m", "api_key_env": "MY_KEY"})


def test_an_answer_without_choices_is_an_error() -> None:
    with pytest.raises(ErrorAnswer):
        read_completion(asked(), b'{"id": "x", "choices": []}', 0.1)
