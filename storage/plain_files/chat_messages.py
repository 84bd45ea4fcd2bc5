"""Messages and tools as other tools write them, in OpenAI's form: what every chat of a file becomes (chat_rows.py).

A message is {role, content}, and, where it has them, `tool_calls`, `tool_call_id`, `name` and `reasoning_content`.
Arguments are a JSON text: kept as it is where the file has a text, written where it has an object.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import (
    CONTENT_FIELDS,
    ROLE_FIELDS,
    THOUGHT_PARTS,
    content_in,
    known_role,
    message_in,
)

Message = dict[str, Any]
CALLERS = ("function_call", "function-call", "tool_call", "tool_calls")
"""Roles of ShareGPT's turns that are nothing but calls, as JSON."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold what its model thought before it."""
KNOWN = {*ROLE_FIELDS, *CONTENT_FIELDS, *THOUGHTS, "tool_calls", "function_call", "tool_call_id", "name"}
TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
THOUGHT = re.compile(r"\s*<think(?:ing)?>\n?(.*?)\n?</think(?:ing)?>\s*", re.DOTALL)
DECODER = json.JSONDecoder()


def chat_of(entries: Any, column: str, lost: dict[str, None], *, padded: bool = False) -> list[Message]:
    """A chat's messages. lost: gets the names of what no message here can hold. padded: the file has one type for all
    rows, so a null in an object only says that another row has that field. Raises Drop.
    """
    messages: list[Message] = []
    for entry in list_in(entries, column):
        fields = message_in(entry)
        message = message_of(fields, padded)
        lost.update(dict.fromkeys(f"{name} of messages" for name in sorted(unknown(fields))))
        before = messages[-1] if messages else {}
        if "tool_calls" in message and is_caller(fields) and before.get("role") == "assistant":
            messages[-1] = merged(before, message)  # text beside calls, or calls beside calls, turn by turn
        else:
            messages.append(message)
    return with_ids(messages)


def list_in(value: Any, column: str) -> list[Any]:
    """A list, which may be a JSON text (as in CSV files). Raises Drop."""
    if isinstance(value, str):
        value = json_in(value)
    if not isinstance(value, list) or not value:
        raise Drop(f"bad_{column}: found {'an empty list' if value == [] else type(value).__name__}; expected messages")
    return value


def unknown(fields: Mapping[str, Any]) -> set[str]:
    return {name for name, value in fields.items() if name not in KNOWN and value is not None}


def is_caller(fields: Mapping[str, Any]) -> bool:
    return any(fields.get(name) in CALLERS for name in ROLE_FIELDS)


def message_of(fields: Mapping[str, Any], padded: bool) -> Message:
    """One message, without empty fields. Raises Drop."""
    thoughts = next((fields[name] for name in THOUGHTS if isinstance(fields.get(name), str)), "")
    if is_caller(fields):
        role, (text, thought, calls) = "assistant", calls_in_text(content_in(fields) or "", padded)
        thoughts = thoughts or thought
    else:
        role, text = known_role(fields), content_in(fields) or ""
        single = fields.get("function_call")  # OpenAI's older form
        calls = [call_of(call, padded) for call in fields.get("tool_calls") or ([single] if single else [])]
        thoughts = thoughts or thoughts_in(next((fields[name] for name in CONTENT_FIELDS if fields.get(name)), None))
    message: Message = {"role": role, "content": text}
    optional = {"reasoning_content": thoughts, "tool_calls": calls}
    optional |= {name: fields.get(name) for name in ("tool_call_id", "name")}
    return message | {name: value for name, value in optional.items() if value}


def thoughts_in(content: Any) -> str:
    """The texts of parts that are thinking."""
    parts = content if isinstance(content, list) else []
    thinking = (part for part in parts if isinstance(part, Mapping) and part.get("type") in THOUGHT_PARTS)
    return "".join(str(part.get("thinking") or part.get("text") or "") for part in thinking)


def merged(before: Message, after: Message) -> Message:
    """Two turns of one answer as one message."""
    texts = (message["content"] for message in (before, after))
    calls = [*before.get("tool_calls", []), *after["tool_calls"]]
    return {**after, **before, "content": "\n\n".join(filter(None, texts)), "tool_calls": calls}


def calls_in_text(text: str, padded: bool) -> tuple[str, str, list[dict[str, Any]]]:
    """(text beside the calls, thinking, calls) of a turn whose text is calls: JSON of one or of a list, also between
    <tool_call> tags, and after thinking or words. Raises Drop.
    """
    thought = THOUGHT.match(text)
    rest = text[thought.end() :] if thought else text
    if tagged := TAGGED.findall(rest):
        words, values = TAGGED.sub("", rest), [json_in(part) for part in tagged]
    else:
        words, value = split_before_json(rest)
        values = value if isinstance(value, list) else [value]
    return words.strip(), thought[1] if thought else "", [call_of(value, padded) for value in values]


def split_before_json(text: str) -> tuple[str, Any]:
    """Words, and the JSON that the text ends with. Raises Drop."""
    text = text.strip()
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        try:
            value, end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if end == len(text):
            return text[:start], value
    raise Drop(f"bad_function_call: {text!r:.60} does not end in JSON; expected {{name, arguments}}, or a list of them")


def call_of(value: Any, padded: bool = False) -> dict[str, Any]:
    """One call: {name, arguments}, OpenAI's {id, function}, or one of these in JSON. Raises Drop."""
    value = json_in(value) if isinstance(value, str) else value
    function = value.get("function") if isinstance(value, Mapping) else None
    function = function if isinstance(function, Mapping) else value
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise Drop(f"bad_call: a call is {value!r:.60}; expected {{name, arguments}}")
    arguments: Any = next((function[key] for key in ("arguments", "parameters") if function.get(key) is not None), {})
    if not isinstance(arguments, str):
        arguments = json.dumps(without_nulls(arguments) if padded else arguments, ensure_ascii=False)
    return {"id": value.get("id") or "", "type": "function", "function": {"name": name, "arguments": arguments}}


def with_ids(messages: list[Message]) -> list[Message]:
    """Every call with an id, every result with the call that it answers: the next one without a result."""
    number, waiting = 0, list[str]()
    taken = {call["id"] for message in messages for call in message.get("tool_calls", ())}
    for message in messages:
        for call in message.get("tool_calls", ()):
            while not call["id"]:
                number += 1
                call["id"] = "" if f"call_{number}" in taken else f"call_{number}"
            waiting.append(call["id"])
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or (waiting[0] if waiting else "")
            waiting = [name for name in waiting if name != answered]
            message |= {"tool_call_id": answered} if answered else {}
    return messages


def tools_of(value: Any, *, padded: bool = False) -> list[dict[str, Any]]:
    """Tool definitions in OpenAI's form, from a list, from JSON, or from functions alone. Raises Drop."""
    value = json_in(value) if isinstance(value, str) and value.strip() else value
    tools = [value] if isinstance(value, Mapping) else list(value or ())
    return [tool_of(tool, padded) for tool in tools]


def tool_of(tool: Any, padded: bool) -> dict[str, Any]:
    tool = json_in(tool) if isinstance(tool, str) else tool
    if not isinstance(tool, Mapping) or not (isinstance(tool.get("function"), Mapping) or "name" in tool):
        raise Drop(f"bad_tools: a tool is {tool!r:.60}; expected {{type, function}}")
    tool = without_nulls(tool) if padded else dict(tool)
    return tool if isinstance(tool.get("function"), Mapping) else {"type": "function", "function": tool}


def without_nulls(value: Any) -> Any:
    """A value without the fields that only other rows have."""
    if isinstance(value, Mapping):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    return [without_nulls(member) for member in value] if isinstance(value, list) else value


def json_in(text: str) -> Any:
    """Raises Drop for a text that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Drop(f"bad_json: {text!r:.60} ({error})") from None


def texts_in(messages: Sequence[Message], role: str) -> Iterator[str]:
    """The texts of one role's messages."""
    return (message["content"] for message in messages if message["role"] == role)
