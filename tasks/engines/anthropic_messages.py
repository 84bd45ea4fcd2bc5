"""Requests and answers in the words of Anthropic's Messages API.

The system message stands apart, roles alternate, `max_tokens` is required. An answer of a fixed form is the input of a
tool that must be called or, where thinking forbids to force one, an output format. Thoughts that come before a tool
call have a signature, and the next turn must hold them: they travel in the call's `extra_content`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Message, Request, Sampling, ToolMessage, unwrap_choice
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.schemas.texts import loads
from synthmill.schemas.usage import Tokens, reported_tokens
from synthmill.tasks.engines.refusals import ErrorAnswer
from synthmill.tasks.engines.replies import counted
from synthmill.tasks.engines.structures import answer_schema

MAX_TOKENS = 4096
"""What is sent where a stage sets none: the API wants a number."""
ANSWER_TOOL = "answer"
CACHED = {"type": "ephemeral"}
THOUGHTS = ("thinking", "redacted_thinking")
ERRORS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error's type means; the type counts, also in an answer with status 200."""


def messages_body(request: Request, settings: EngineSettings, structure: Structure | None = None) -> dict[str, Any]:
    """A request's body. structure: how an answer's form is asked for. What `options` say wins over everything here;
    null there leaves a field out.
    """
    sampling, room = request.sampling, settings.thinking.tokens or 0
    body: dict[str, Any] = {
        "model": settings.model,
        "max_tokens": (sampling.max_tokens or MAX_TOKENS) + room,
        **messages_of(request.messages),
        **thinking_fields(settings),
    }
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    if not thinks:  # with thinking, the API draws as it does by default
        body |= drawing_fields(sampling)
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    if request.tools:
        body["tools"] = [tool_definition(tool) for tool in request.tools]
    if structure and (schema := answer_schema(request)):
        form = form_fields(object_schema(schema), structure)
        if "output_config" in form:
            form["output_config"] = body.get("output_config", {}) | form["output_config"]
        body |= form
    if settings.cache:
        mark_beginning(body, is_repeated=request.sample > 0)
    return {name: value for name, value in (body | settings.options).items() if value is not None}


def drawing_fields(sampling: Sampling) -> dict[str, Any]:
    """How an answer is drawn: newer models refuse temperature and top_p beside each other, so top_p goes alone."""
    if sampling.temperature is not None:
        return {"temperature": sampling.temperature}
    return {} if sampling.top_p is None else {"top_p": sampling.top_p}


def thinking_fields(settings: EngineSettings) -> dict[str, Any]:
    """What asks for thinking, or against it; nothing where the settings say nothing."""
    thinking = settings.thinking
    fields: dict[str, Any] = {}
    if thinking.mode == "off":
        fields["thinking"] = {"type": "disabled"}
    elif thinking.tokens:
        fields["thinking"] = {"type": "enabled", "budget_tokens": thinking.tokens}
    elif thinking.effort:
        fields["thinking"] = {"type": "adaptive"}
    if thinking.effort:
        fields["output_config"] = {"effort": thinking.effort}
    return fields


def form_fields(schema: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
    """What asks for an answer of a form: a forced tool or, with thinking, which none may be forced on, a format."""
    if structure == "none":
        return {}
    if structure == "json_schema":
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    tool = {"name": ANSWER_TOOL, "description": "Give the answer in this form.", "input_schema": schema}
    return {"tools": [tool], "tool_choice": {"type": "tool", "name": ANSWER_TOOL}}


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool takes an object; any other value is its one field, `answer`."""
    if schema.get("type", "object") == "object":
        return {"type": "object", **schema}
    return {"type": "object", "properties": {ANSWER_TOOL: schema}, "required": [ANSWER_TOOL]}


def messages_of(messages: Sequence[Message]) -> dict[str, Any]:
    """`system` and `messages`. Turns of one role that follow each other become one, texts that are empty go."""
    system = [text_block(message.content) for message in messages if message.role == "system" and message.content]
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system" or not (blocks := blocks_of(message)):
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        return {"messages": [{"role": "user", "content": system or [text_block("(empty)")]}]}
    return {"system": system, "messages": turns} if system else {"messages": turns}


def blocks_of(message: Message) -> list[dict[str, Any]]:
    """A message as blocks: a text, thoughts before tool calls, calls, or a tool's result."""
    texts = [text_block(message.content)] if message.content.strip() else []
    if not isinstance(message, ToolMessage):
        return texts
    if message.tool_call_id:
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        return [result | ({"content": texts} if texts else {})]
    calls = message.tool_calls
    thoughts = [block for call in calls for block in thoughts_before(call)]
    return [*thoughts, *texts, *map(tool_use, calls)]


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def thoughts_before(call: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(((call.get("extra_content") or {}).get("anthropic") or {}).get("thoughts") or [])


def tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": loads(function["arguments"])}


def tool_definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of OpenAI's form in Anthropic's."""
    function = tool["function"]
    definition = {"name": function["name"], "input_schema": {"type": "object", **function.get("parameters", {})}}
    return definition | ({"description": function["description"]} if function.get("description") else {})


def mark_beginning(body: dict[str, Any], is_repeated: bool) -> None:
    """Mark what other requests begin with: the tools and the system message; the turns before the last one, which a
    dialogue's next request repeats; and all of it, where the same prompt is asked several times.
    """
    marked = [body["system"]] if "system" in body else [body["tools"]] if "tools" in body else []
    turns = body["messages"]
    marked += [turn["content"] for turn in turns[-2:-1]] + ([turns[-1]["content"]] if is_repeated else [])
    for blocks in marked:
        if blocks[-1].get("type") not in THOUGHTS:
            blocks[-1] = blocks[-1] | {"cache_control": CACHED}


def read_message(request: Request, data: bytes, latency_s: float) -> Completion:
    """The completion that an answer holds. Raises ErrorAnswer, ValueError, KeyError, TypeError or AttributeError."""
    answer = loads(data)
    if answer.get("type") == "error":
        raise ErrorAnswer("engine_error", error_in(200, data)[0])
    blocks = [block for block in answer["content"] if isinstance(block, dict)]
    usage = answer.get("usage") or {}
    if redacted := sum(block["type"] == "redacted_thinking" for block in blocks):
        usage = {**usage, "redacted_thinking_blocks": redacted}
    forms = [block["input"] for block in blocks if block["type"] == "tool_use" and block["name"] == ANSWER_TOOL]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    schema = answer_schema(request)
    if schema and forms:
        text = orjson.dumps(forms[0]).decode()
    if schema and schema.get("type", "object") != "object":
        text = unwrapped(text)
    finish = str(answer.get("stop_reason") or "stop")
    tokens = reported_tokens(usage) or Tokens()
    completion = Completion(
        text=unwrap_choice(request, text),
        reasoning="\n\n".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        refusal=refusal_in(answer) if finish == "refusal" else "",
        tool_calls=None if schema else calls_in(blocks) or None,
        usage=usage or None,
        finish_reason=finish,
        prompt_tokens=tokens.prompt_tokens,
        completion_tokens=tokens.completion_tokens,
        latency_s=round(latency_s, 4),
    )
    [completion] = counted(request, tokens, [completion])
    return completion


def unwrapped(text: str) -> str:
    """What `object_schema` has wrapped; a text of another form stays for the recipe to judge."""
    try:
        return orjson.dumps(loads(text)[ANSWER_TOOL]).decode()
    except (ValueError, KeyError, TypeError):
        return text


def calls_in(blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form; the first keeps the thoughts before it, as they came."""
    calls: list[dict[str, Any]] = []
    for block in blocks:
        if block["type"] == "tool_use":
            function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
            calls.append({"id": block["id"], "type": "function", "function": function})
    if calls and (thoughts := [dict(block) for block in blocks if block["type"] in THOUGHTS]):
        calls[0]["extra_content"] = {"anthropic": {"thoughts": thoughts}}
    return calls


def refusal_in(answer: Mapping[str, Any]) -> str:
    details = answer.get("stop_details") or {}
    return str(details.get("explanation") or details.get("category") or "the model refused")


def error_in(status: int, data: bytes) -> tuple[int, str]:
    """The status that an error means, and its message."""
    try:
        error = loads(data)["error"]
        kind, message = str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return status, data.decode(errors="replace")
    meant = ERRORS.get(kind, status)
    return meant if status in (200, meant) or meant in (402, 429, 529) else status, f"{kind}: {message}"
