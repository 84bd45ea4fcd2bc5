"""Tools, system messages and earlier turns written into texts, for trainers that cannot hold them.

Tools are written as Hermes and Qwen models write them: definitions between <tools> marks in the system message, a call
between <tool_call> marks after the answer's text, a result between <tool_response> marks in a user's message.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from synthmill.schemas.formats import Part
from synthmill.storage.published.chats import Chat, Message, chat_column, chats_in, functions_of
from synthmill.storage.published.row_faults import CHATS, NOTHING
from synthmill.storage.published.thinking import fields_of

OF_TOOLS = ("tool_calls", "tool_call_id", "name")
TOOLS = """# Tools

You may call one or more functions. Their signatures are within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each call, return a JSON object with the function's name and arguments within <tool_call></tool_call> XML tags."""


def with_parts_as_text(rows: pl.DataFrame, parts: Collection[Part]) -> pl.DataFrame:
    """A batch of rows of a use with these parts in the texts of its messages."""
    for name in (name for name in CHATS if name in rows.columns) if parts else ():
        chats, fields = chats_in(rows[name]), fields_of(rows.schema[name])
        behind = [len(chat) for chat in chats]
        if "learned_from" in rows.columns:
            behind = [len(chat) - place for chat, place in zip(chats, rows["learned_from"].to_list(), strict=True)]
        if "tools" in parts:
            own = rows["tools"] if "tools" in rows.columns and name in ("messages", "prompt") else [None] * rows.height
            chats = [tools_as_text(chat, tools) for chat, tools in zip(chats, own, strict=True)]
            fields = [field for field in fields if field not in OF_TOOLS]
        if "system" in parts:
            chats = [system_as_text(chat) for chat in chats]
        if "history" in parts and (name == "prompt" or "learned_from" in rows.columns):
            ends = behind if name == "messages" else [0] * rows.height
            chats = [history_as_text(chat, len(chat) - end) for chat, end in zip(chats, ends, strict=True)]
        rows = rows.with_columns(chat_column(name, chats, fields))
        if "learned_from" in rows.columns:
            places = [len(chat) - end for chat, end in zip(chats, behind, strict=True)]
            rows = rows.with_columns(learned_from=pl.Series(places, dtype=pl.Int64))
    return rows.drop("tools", strict=False) if "tools" in parts else rows


def tools_as_text(chat: Chat, tools: str | None) -> Chat:
    """A chat whose calls and results are texts, after its tools' definitions (JSON)."""
    messages = [{name: value for name, value in text_of(m).items() if name not in OF_TOOLS} for m in chat]
    if tools in NOTHING or tools is None:
        return messages
    definitions = TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in json.loads(tools)))
    first, *rest = messages if messages and messages[0]["role"] == "system" else [{"role": "system"}, *messages]
    content = "\n\n".join(filter(None, (first.get("content"), definitions)))
    return [{**first, "content": content}, *rest]


def text_of(message: Mapping[str, Any]) -> Message:
    """A message with its calls, or its result, in its text."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [
        f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>" for function in functions_of(message)
    ]
    return {**message, "content": "\n".join(filter(None, (message["content"], *calls)))}


def system_as_text(chat: Chat) -> Chat:
    """A chat whose system messages stand before the text of its first user message."""
    system = [message["content"] for message in chat if message["role"] == "system"]
    rest = [message for message in chat if message["role"] != "system"]
    place = next((number for number, message in enumerate(rest) if message["role"] == "user"), None)
    if not system or place is None:
        return chat
    user = rest[place]
    return [*rest[:place], {**user, "content": "\n\n".join([*system, user["content"]])}, *rest[place + 1 :]]


def history_as_text(chat: Chat, end: int) -> Chat:
    """A chat whose first `end` messages, but for system messages, are one message of the user's, with the speakers'
    names.
    """
    system = [message for message in chat[:end] if message["role"] == "system"]
    turns = [message for message in chat[:end] if message["role"] != "system"]
    if len(turns) < 2:
        return chat
    text = "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in turns)
    return [*system, {"role": "user", "content": text}, *chat[end:]]
