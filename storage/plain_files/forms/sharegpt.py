"""ShareGPT: `conversations` of {from, value}, as LLaMA-Factory reads it: `system` and `tools` beside them, and `chosen`
and `rejected` (a turn each) or `kto_tag`.

A turn called function_call is JSON of one call or of a list; text beside it stands before the JSON, or is the turn
before. The first turn may be the system's: then the column `system` is not read, as there.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import ChatReader, Message, text_message
from synthmill.storage.plain_files.chat_rows import ChatRow, split_at_last_answer
from synthmill.storage.plain_files.forms import Form


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    tools = reader.tools(fields.get("tools"))
    return answered(
        with_system(reader.chat(fields["conversations"], "conversations"), fields, reader), fields, tools, reader
    )


def with_system(messages: list[Message], fields: Mapping[str, Any], reader: ChatReader) -> list[Message]:
    """Messages after the column `system`, unless they begin with a system message of their own. Raises Drop."""
    if not (system := fields.get("system")):
        return messages
    if not messages or messages[0]["role"] != "system":
        return [text_message("system", system, "system"), *messages]
    if messages[0]["content"] != system:
        reader.lost["the column system"] = None
    return messages


def answered(
    messages: list[Message], fields: Mapping[str, Any], tools: list[dict[str, Any]], reader: ChatReader
) -> ChatRow:
    """A conversation, or what LLaMA-Factory has beside one: the answers `chosen` and `rejected`, or `kto_tag`, whether
    the last answer is wanted. Raises Drop.
    """
    if fields.get("chosen") is not None and fields.get("rejected") is not None:
        answers = [answer_of(fields[side], side, reader) for side in ("chosen", "rejected")]
        return ChatRow("preference", messages, answers, tools=tools)
    if (label := fields.get("kto_tag")) is None:
        return ChatRow("conversation", messages, tools=tools)
    if not isinstance(label, bool):
        raise Drop(f"bad_kto_tag: found {label!r:.40}; expected true or false")
    prompt, answer = split_at_last_answer(messages)
    return ChatRow("label", prompt, [answer], label=label, tools=tools)


def answer_of(side: Any, column: str, reader: ChatReader) -> list[Message]:
    """An answer: a turn, a list of turns, or a text."""
    return reader.texts_or_chat([side] if isinstance(side, Mapping) else side, column, "assistant")


FORM = Form(
    "sharegpt",
    (frozenset({"conversations"}),),
    frozenset({"conversations", "system", "tools", "chosen", "rejected", "kto_tag"}),
    read,
)
