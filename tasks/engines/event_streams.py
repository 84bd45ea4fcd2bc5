"""Server-sent events of a streamed chat completion, put together into the completion that they are."""

from collections.abc import Iterator, Mapping
from typing import Any

from synthmill.schemas.texts import loads
from synthmill.tasks.engines.refusals import ErrorAnswer

DONE = "[DONE]"
JOINED = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a message that come in pieces."""


def is_stream(data: bytes) -> bool:
    """Whether a body is events, not one JSON object: some servers answer so whatever they were asked for."""
    return data[:1] != b"{" and data.lstrip().startswith((b"data:", b"event:", b":", b"id:"))


def events_in(data: bytes) -> Iterator[str]:
    """The data of each event; several lines of one event are joined, comments left out."""
    lines: list[str] = []
    for line in [*data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def completion_of_stream(data: bytes) -> dict[str, Any]:
    """The chat completion that a body of events adds up to. Raises ErrorAnswer for an error among them, ValueError for
    a stream that ended before its end.
    """
    choices: dict[int, dict[str, Any]] = {}
    usage: Any = None
    ended = False
    for event in events_in(data):
        if event.strip() == DONE:
            ended = True
            break
        chunk = loads(event)
        if error := chunk.get("error"):
            code = error.get("code") if isinstance(error, Mapping) else None
            raise ErrorAnswer("engine_error", code if isinstance(code, int) and 400 <= code < 600 else 200)
        usage = chunk.get("usage") or usage
        for part in chunk.get("choices") or ():
            add_part(choices.setdefault(part.get("index", 0), {"message": {}}), part)
    ended = ended or (bool(choices) and all(choice.get("finish_reason") for choice in choices.values()))
    if not ended:
        raise ValueError("the stream ended before its end")
    whole: dict[str, Any] = {"choices": [{"index": index, **choices[index]} for index in sorted(choices)]}
    return {**whole, "usage": usage} if usage else whole


def add_part(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add one event's part to its choice."""
    message, delta = choice["message"], part.get("delta") or part.get("message") or {}
    for name in JOINED:
        if isinstance(piece := delta.get(name), str):
            message[name] = message.get(name, "") + piece
    if isinstance(details := delta.get("reasoning_details"), list):
        message.setdefault("reasoning_details", []).extend(details)
    for call in delta.get("tool_calls") or ():
        add_call(message.setdefault("tool_calls", []), call)
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]
    if tokens := (part.get("logprobs") or {}).get("content"):
        choice.setdefault("logprobs", {"content": []})["content"].extend(tokens)


def add_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """Add a piece of a tool call: its arguments come in pieces, its name and id once."""
    place = part.get("index", len(calls) if part.get("id") else max(0, len(calls) - 1))
    while len(calls) <= place:
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[place], part.get("function") or {}
    if part.get("id"):
        call["id"] = part["id"]
    call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""
