"""Messages and tools as OpenAI's chat completions write them, which most servers and clients read."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthmill.schemas.calls import Message, ToolMessage


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages with their tool calls, and a tool's result with the call that it answers."""
    return [chat_message(message) for message in messages]


def chat_message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if isinstance(message, ToolMessage) and message.tool_calls:
        written["tool_calls"] = list(map(chat_call, message.tool_calls))
        written["content"] = message.content or None
    elif isinstance(message, ToolMessage):
        written["tool_call_id"] = message.tool_call_id
    return written


def chat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as it came, with what its server wants back: its id and, where there is any, `extra_content`."""
    function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
    extra = {"extra_content": call["extra_content"]} if call.get("extra_content") else {}
    return {"id": call["id"], "type": "function", "function": function, **extra}
