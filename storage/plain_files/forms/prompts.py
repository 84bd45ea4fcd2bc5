"""Prompts alone: `prompt`, messages or a text, with `system` beside it; what online methods begin with."""

from collections.abc import Mapping
from typing import Any

from synthmill.storage.plain_files.chat_messages import ChatReader
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.trl import prompt_of


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    return ChatRow("prompt", tools=reader.tools(fields.get("tools")), messages=prompt_of(fields, reader))


FORM = Form(
    "prompts",
    (frozenset({"prompt"}),),
    frozenset({"prompt", "system", "tools"}),
    read,
    unless=frozenset({"completion", "chosen", "rejected", "messages", "conversations", "instruction", "completions"}),
)
