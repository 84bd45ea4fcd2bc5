"""What any-llm returns and raises, in our words. Nothing here needs the client."""

from collections.abc import Mapping
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request, unwrap_choice
from synthmill.schemas.texts import loads
from synthmill.schemas.usage import Tokens, reported_tokens
from synthmill.tasks.engines.refusals import ErrorAnswer
from synthmill.tasks.engines.replies import counted, reasoning_of, text_of
from synthmill.tasks.engines.structures import answer_schema
from synthmill.tasks.engines.transport import NO_ANSWER, NO_HEADERS, Headers, Reply

CODES = {
    "ThrottlingException": 429,
    "ServiceUnavailableException": 503,
    "ModelNotReadyException": 503,
    "ModelTimeoutException": 408,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 401,
    "ExpiredTokenException": 401,
    "ResourceNotFoundException": 404,
    "ValidationException": 400,
}
"""AWS's names of errors -> the statuses that we know."""
THEIR_NAMES = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxOutputTokens": "max_tokens",
    "maxTokens": "max_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "thinkingConfig": "thinking_config",
    "additionalModelRequestFields": "additionalModelRequestFields",
    "responseJsonSchema": "response_format",
    "responseMimeType": "response_format",
    "toolConfig": "tool_choice",
}
"""Fields as the providers' errors name them -> as the client is asked."""
WRONG_KEY = ("api key not valid", "api_key_invalid", "api key expired")
LOST = ("Connect", "Network", "RemoteProtocol", "ReadError", "WriteError", "ConnectionClosed", "Transport")


def read_completion(request: Request, data: bytes, latency_s: float) -> Completion:
    """The completion that an answer holds. Raises ErrorAnswer, ValueError, KeyError, TypeError or AttributeError."""
    answer = loads(data)
    facts = bedrock_facts(answer.get("id"))
    usage = facts.get("usage") or answer.get("usage") or {}
    if not answer["choices"]:
        raise ErrorAnswer("no_choices", 200)
    message, finish = answer["choices"][0]["message"], answer["choices"][0].get("finish_reason")
    calls, text = message.get("tool_calls") or [], text_of(message.get("content"))
    if answer_schema(request) and calls:
        text, calls = calls[0]["function"]["arguments"], []
    tokens = reported_tokens(usage) or Tokens()
    completion = Completion(
        text=unwrap_choice(request, text),
        reasoning=reasoning_of(message),
        refusal=str(message.get("refusal") or ""),
        tool_calls=[without_nulls(call) for call in calls] or None,
        usage=without_nulls(usage) or None,
        finish_reason=str(facts.get("stop_reason") or finish or "stop"),
        prompt_tokens=tokens.prompt_tokens,
        completion_tokens=tokens.completion_tokens,
        latency_s=round(latency_s, 4),
    )
    [completion] = counted(request, tokens, [completion])
    return completion


def bedrock_facts(answer_id: Any) -> dict[str, Any]:
    """What `Converse` has put into an answer's id; empty for any other id."""
    if not isinstance(answer_id, str) or not answer_id.startswith("{"):
        return {}
    facts: dict[str, Any] = orjson.loads(answer_id)
    return facts


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def error_reply(error: BaseException, timeout_s: float) -> Reply:
    """An exception of a provider's client as a reply: status, message, its headers."""
    error = getattr(error, "original_exception", None) or error
    name = type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return 0, NO_ANSWER + f" {timeout_s:g} s".encode(), NO_HEADERS
    status = status_of(error)
    if not status and (isinstance(error, OSError) or any(sign in name for sign in LOST)):
        return 0, f"{name}: {error}".encode(), NO_HEADERS
    return status or 400, str(error or name).encode(), headers_of(error)


def status_of(error: BaseException) -> int:
    """The status that an exception carries; 0 where it has none."""
    answer = answer_of(error)
    if isinstance(answer, Mapping):  # botocore's
        code = (answer.get("Error") or {}).get("Code", "")
        return int(CODES.get(code) or (answer.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0)
    for value in (
        getattr(error, "status_code", None),
        getattr(error, "code", None),
        getattr(answer, "status_code", None),
    ):
        if isinstance(value, int):
            return value
    return 0


def answer_of(error: BaseException) -> Any:
    return getattr(error, "response", None)


def headers_of(error: BaseException) -> Headers:
    """The headers that say when to come back; of Gemini's errors `retryDelay`, such as "17s", as Retry-After."""
    answer = answer_of(error)
    if isinstance(answer, Mapping):
        headers = (answer.get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
    else:
        headers = getattr(answer, "headers", None) or {}
    names = {str(name).lower(): str(value) for name, value in headers.items()}
    delay = retry_delay(getattr(error, "details", None))
    return {"retry-after": delay, **names} if delay else names


def retry_delay(details: Any) -> str | None:
    """The delay that Google's RetryInfo names, in seconds."""
    try:
        delays = [info["retryDelay"] for info in details["error"]["details"] if "retryDelay" in info]
    except (KeyError, TypeError):
        return None
    return str(delays[0]).removesuffix("s") if delays else None


def named_fields(message: str) -> set[str]:
    """The fields that an error names in the provider's own words."""
    low = message.lower().replace("_", "")
    return {ours for theirs, ours in THEIR_NAMES.items() if theirs.lower() in low}


def thrown_status(status: int, message: str) -> int:
    """The status that an error means: Gemini says 400 of a key that is wrong."""
    return 401 if status == 400 and any(sign in message.lower() for sign in WRONG_KEY) else status
