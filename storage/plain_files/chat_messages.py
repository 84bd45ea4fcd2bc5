"""Messages and tools as other tools write them, in OpenAI's form: what every chat of a file becomes (chat_rows.py).

A message is {role, content}, and, where it has them, `tool_calls`, `tool_call_id`, `name` and `reasoning_content`.
Arguments are a JSON text: kept as it is where the file has a text, written where it has an object.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from synthmill.schemas.calls import ChatRole
from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import (
    CONTENT_FIELDS,
    ROLE_FIELDS,
    THOUGHT_PARTS,
    content_in,
    known_role,
    message_in,
)
from synthmill.storage.plain_files.lines import text_of

Message = dict[str, Any]
CALLERS = ("function_call", "function-call", "tool_call", "tool_calls")
"""Roles of ShareGPT's turns that are nothing but calls, as JSON."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold what its model thought before it."""
KNOWN = {*ROLE_FIELDS, *CONTENT_FIELDS, *THOUGHTS, "tool_calls", "function_call", "tool_call_id", "name"}
ARGUMENTS = ("arguments", "parameters")
MAY_BE_NULL = ("default", "const")
"""Keys of a JSON schema whose null means something."""
TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
THOUGHT = re.compile(r"\s*<think(?:ing)?>\n?(.*?)\n?</think(?:ing)?>\s*", re.DOTALL)
WRITTEN_THOUGHT = re.compile(r"<think>\n(.+?)\n</think>\n\n", re.DOTALL)
DECODER = json.JSONDecoder()


class ChatReader:
    """Reads the chats of one row. padded: the file has one type for all rows, so that a null in an object only says
    that another row has that field. lost: names of what no message here can hold.
    """

    def __init__(self, padded: bool = False) -> None:
        self.padded = padded
        self.lost: dict[str, None] = {}
        self._parameters: dict[str, Mapping[str, Any]] = {}  # by function

    def tools(self, value: Any) -> list[dict[str, Any]]:
        """Tool definitions, from a list, from JSON, or from functions alone; read before the chats. Raises Drop."""
        value = json_in(value or "[]") if isinstance(value, str) else value
        tools = [tool_of(tool, self.padded) for tool in ([value] if isinstance(value, Mapping) else value or ())]
        for function in (tool["function"] for tool in tools):
            schema = function.get("parameters")
            if isinstance(schema, Mapping) and isinstance(properties := schema.get("properties"), Mapping):
                self._parameters[function.get("name", "")] = properties
        return tools

    def chat(self, entries: Any, column: str) -> list[Message]:
        """A chat's messages. Raises Drop."""
        messages: list[Message] = []
        for entry in list_in(entries, column):
            fields = message_in(entry)
            message = self._message(fields)
            self.lost.update({f"{name} of messages": None for name in sorted(unknown(fields))})
            before = messages[-1] if messages else {}
            if "tool_calls" in message and is_caller(fields) and before.get("role") == "assistant":
                messages[-1] = merged(before, message)  # text beside calls, or calls beside calls, turn by turn
            else:
                messages.append(message)
        return messages

    def texts_or_chat(self, value: Any, column: str, role: ChatRole) -> list[Message]:
        """A chat, or a text as one message of a role. Raises Drop."""
        return self.chat(value, column) if isinstance(value, list) else [text_message(role, value, column)]

    def call(self, value: Any, *, written: bool = False) -> dict[str, Any]:
        """One call: {name, arguments}, OpenAI's {id, function}, or one of these in JSON. written: it was JSON in a
        text, whose nulls are its own. Raises Drop.
        """
        value, written = (json_in(value), True) if isinstance(value, str) else (value, written)
        function = value.get("function") if isinstance(value, Mapping) else None
        function = function if isinstance(function, Mapping) else value
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise Drop(f"bad_call: a call is {value!r:.60}; expected {{name, arguments}}")
        arguments: Any = next((function[key] for key in ARGUMENTS if function.get(key) is not None), {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments if written else self._own(arguments, name), ensure_ascii=False)
        return {"id": value.get("id") or "", "type": "function", "function": {"name": name, "arguments": arguments}}

    def _own(self, arguments: Any, function: str) -> Any:
        """Arguments without the nulls that stand for other functions' arguments: all nulls of a padded file, and
        else those that the function's tool does not know.
        """
        if self.padded:
            return without_nulls(arguments)
        known = self._parameters.get(function)
        if known is None or not isinstance(arguments, Mapping):
            return arguments
        return {name: value for name, value in arguments.items() if value is not None or name in known}

    def _message(self, fields: Mapping[str, Any]) -> Message:
        """One message, without empty fields. Raises Drop."""
        thoughts = next((fields[name] for name in THOUGHTS if isinstance(fields.get(name), str)), "")
        if is_caller(fields):
            role: ChatRole = "assistant"
            text, thought, values = split_calls(content_in(fields) or "")
            calls = [self.call(value, written=True) for value in values]
        else:
            role, text = known_role(fields), content_in(fields) or ""
            thought = thoughts_in(next((fields[name] for name in CONTENT_FIELDS if fields.get(name)), None))
            single = fields.get("function_call")  # OpenAI's older form
            values = fields.get("tool_calls") or ([single] if single else [])
            calls = [self.call(value) for value in (json_in(values) if isinstance(values, str) else values)]
        optional = {"reasoning_content": thoughts or thought, "tool_calls": calls}
        optional |= {name: fields.get(name) for name in ("tool_call_id", "name")}
        return {"role": role, "content": text} | {name: value for name, value in optional.items() if value}


def text_message(role: ChatRole, text: Any, column: str) -> Message:
    """A text as a message. Raises Drop."""
    return {"role": role, "content": text_of(text, column)}


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


def split_calls(text: str) -> tuple[str, str, list[Any]]:
    """(text beside the calls, thinking, calls) of a turn whose text is calls: JSON of one or of a list, also between
    <tool_call> tags, and after thinking or words. Raises Drop.
    """
    thought = THOUGHT.match(text)
    rest = text[thought.end() :] if thought else text
    if tagged := TAGGED.findall(rest):
        words, calls = TAGGED.sub("", rest), [json_in(part) for part in tagged]
    else:
        words, value = split_before_json(rest)
        calls = value if isinstance(value, list) else [value]
    return words.strip(), thought[1] if thought else "", calls


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


def set_ids(messages: Sequence[Message]) -> None:
    """Give every call an id, and every result the call that it answers: the next one without a result."""
    number, waiting = 0, list[str]()
    taken = {call["id"] for message in messages for call in message.get("tool_calls", ())}
    for message in messages:
        for call in message.get("tool_calls", ()):
            while not call["id"]:
                number += 1
                call["id"] = "" if f"call_{number}" in taken else f"call_{number}"
            waiting.append(call["id"])
        if message["role"] == "tool" and waiting:
            answered = message.setdefault("tool_call_id", waiting[0])
            waiting = [name for name in waiting if name != answered]


def set_thinking(messages: Sequence[Message]) -> None:
    """Take what was thought out of answers' texts, where it stands there as exports write it (docs/thinking.md)."""
    for message in messages:
        written = WRITTEN_THOUGHT.match(message["content"]) if message["role"] == "assistant" else None
        if written and "reasoning_content" not in message:
            message["reasoning_content"], message["content"] = written[1], message["content"][written.end() :]


def tool_of(tool: Any, padded: bool) -> dict[str, Any]:
    """A tool in OpenAI's form; nulls of a definition only say what other tools have. Raises Drop."""
    tool = json_in(tool) if isinstance(tool, str) else without_nulls(tool, () if padded else MAY_BE_NULL)
    if not isinstance(tool, Mapping) or not (isinstance(tool.get("function"), Mapping) or "name" in tool):
        raise Drop(f"bad_tools: a tool is {tool!r:.60}; expected {{type, function}}")
    return dict(tool) if isinstance(tool.get("function"), Mapping) else {"type": "function", "function": dict(tool)}


def without_nulls(value: Any, but: Sequence[str] = ()) -> Any:
    """A value without the fields that are null. but: fields that may be."""
    if isinstance(value, Mapping):
        fields = ((name, member) for name, member in value.items() if member is not None or name in but)
        return {name: without_nulls(member, but) for name, member in fields}
    return [without_nulls(member, but) for member in value] if isinstance(value, list) else value


def json_in(text: str) -> Any:
    """Raises Drop for a text that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Drop(f"bad_json: {text!r:.60} ({error})") from None
