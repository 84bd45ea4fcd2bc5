"""A message of a chat, as files, servers and other tools' datasets write it: its role and its text.

A message is {role, content}; ShareGPT's {from, value} and {speaker, text} mean the same, and a message may be such an
object in JSON. Its content is a text, or a list of parts (OpenAI's form), of which those of type text are joined.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from synthmill.schemas.calls import ChatRole
from synthmill.schemas.errors import Drop

SPELLINGS: Mapping[str, ChatRole] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "agent", "ai", "bot", "chatbot", "gpt", "chatgpt", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "tool_response", "function_response"), "tool"),
}
"""Names that tools give the roles of a chat, in lower case -> ours; `developer` is OpenAI's newer `system`."""
ROLE_FIELDS = ("role", "from", "speaker")
CONTENT_FIELDS = ("content", "value", "text")
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHT_PARTS = ("thinking", "reasoning", "redacted_thinking")
"""Types of parts that hold a model's reasoning; the message's text leaves them out."""


def as_message(value: Any) -> Mapping[str, Any] | None:
    """The value as a message, parsed where it is an object in JSON; None where it is no message, such as a text."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = orjson.loads(value)
        except ValueError:
            return None
        return value if any(name in value for name in ROLE_FIELDS) else None
    return value if isinstance(value, Mapping) else None


def message_in(value: Any) -> Mapping[str, Any]:
    """As `as_message`; raises Drop where the value is no message."""
    message = as_message(value)
    if message is None:
        raise Drop(f"bad_messages: a message is {type(value).__name__}; expected a list of {{role, content}}")
    return message


def role_in(message: Mapping[str, Any]) -> ChatRole | None:
    """The message's role, in any of its spellings; None for an unknown role."""
    role = next((message[name] for name in ROLE_FIELDS if message.get(name) is not None), None)
    return SPELLINGS.get(role.strip().casefold()) if isinstance(role, str) else None


def known_role(message: Mapping[str, Any]) -> ChatRole:
    """As `role_in`; raises Drop for an unknown role."""
    role = role_in(message)
    if role is None:
        spelled = next((message[name] for name in ROLE_FIELDS if message.get(name) is not None), None)
        if spelled is None:
            raise Drop("bad_messages: a message has no role; expected {role, content}")
        raise Drop(f"unknown_role: {spelled!r:.40}; expected one of {', '.join(SPELLINGS)}")
    return role


def content_in(message: Mapping[str, Any]) -> str | None:
    """A message's text; None where it has none, as beside tool calls. Raises Drop."""
    return text_in(next((message[name] for name in CONTENT_FIELDS if message.get(name) is not None), None))


def text_in(content: Any) -> str | None:
    """A content's text: the text itself, or the texts of its parts, joined; None for null. Raises Drop for a value that
    is no content, and for a part that is no text, which it names (`image_url in content`).
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Drop(f"bad_messages: a content is {type(content).__name__}; expected a text, or a list of parts")
    return "".join(map(part_text, content))


def part_text(part: Any) -> str:
    """The text of one part. Raises Drop."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Drop(f"bad_messages: a part is {type(part).__name__}; expected {{type, text}}")
    text, kind = part.get("text"), part.get("type")
    if isinstance(text, str) and kind in (None, *TEXT_PARTS):
        return text
    if kind in THOUGHT_PARTS:
        return ""
    fields = [name for name, value in part.items() if name != "type" and value is not None]
    raise Drop(f"{kind or next(iter(fields), 'nothing')!s:.40} in content")
