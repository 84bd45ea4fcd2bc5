"""ShareGPT: `conversations` of {from, value}, as LLaMA-Factory reads it: `system` and `tools` beside them, and `chosen`
and `rejected` (a turn each) or `kto_tag`.

A turn called function_call is JSON of one call or of a list; text beside it stands before the JSON, or is the turn
before. The first turn may be the system's: then the column `system` is not read, as there.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import Message, chat_of, tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow, split_at_last_answer
from synthmill.storage.plain_files.forms import Form


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    messages = with_system(chat_of(fields["conversations"], "conversations", lost, padded=padded), fields, lost)
    tools = tools_of(fields.get("tools"), padded=padded)
    if fields.get("chosen") is not None and fields.get("rejected") is not None:
        answers = [answer_of(fields[side], side, lost, padded) for side in ("chosen", "rejected")]
        return ChatRow("preference", messages, answers, tools=tools, lost=tuple(lost))
    if fields.get("kto_tag") is not None:
        return labelled(messages, fields["kto_tag"], tools, lost)
    return ChatRow("conversation", messages, tools=tools, lost=tuple(lost))


def with_system(messages: list[Message], fields: Mapping[str, Any], lost: dict[str, None]) -> list[Message]:
    """Messages after the column `system`, unless they begin with a system message of their own."""
    system = fields.get("system")
    if not isinstance(system, str) or not system:
        return messages
    if messages and messages[0]["role"] == "system":
        lost.update({"the column system": None} if messages[0]["content"] != system else {})
        return messages
    return [{"role": "system", "content": system}, *messages]


def answer_of(side: Any, column: str, lost: dict[str, None], padded: bool) -> list[Message]:
    """An answer: a turn, a list of turns, or a text."""
    if isinstance(side, str):
        return [{"role": "assistant", "content": side}]
    return chat_of(side if isinstance(side, list) else [side], column, lost, padded=padded)


def labelled(messages: list[Message], label: Any, tools: list[dict[str, Any]], lost: dict[str, None]) -> ChatRow:
    """A conversation whose last answer is wanted or not. Raises Drop."""
    if not isinstance(label, bool):
        raise Drop(f"bad_kto_tag: found {label!r:.40}; expected true or false")
    prompt, answer = split_at_last_answer(messages)
    return ChatRow("label", prompt, [answer], label=label, tools=tools, lost=tuple(lost))


FORM = Form(
    "sharegpt",
    (frozenset({"conversations"}),),
    frozenset({"conversations", "system", "tools", "chosen", "rejected", "kto_tag"}),
    read,
)
