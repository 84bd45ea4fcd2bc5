"""OpenAI: `messages` with `tools`, or `input`, `preferred_output`, `non_preferred_output`; TRL's, axolotl's, ms-swift's
and others' conversations are the same.

Source: the reference of OpenAI's fine-tuning files, supervised and by preference.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import ChatReader
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form

SIDES = ("preferred_output", "non_preferred_output")
PREFERENCE = frozenset({"input", *SIDES})


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    tools = fields.get("tools") or fields.get("functions")
    if fields.get("messages") is not None:
        return ChatRow("conversation", tools=reader.tools(tools), messages=reader.chat(fields["messages"], "messages"))
    request = fields["input"]
    if not isinstance(request, Mapping):
        raise Drop(f"bad_input: found {type(request).__name__}; expected {{messages}}")
    return ChatRow(
        "preference",
        tools=reader.tools(request.get("tools") or tools),
        messages=reader.chat(request.get("messages"), "input"),
        answers=[reader.chat(fields[side], side) for side in SIDES],
    )


FORM = Form(
    "openai",
    (frozenset({"messages"}), PREFERENCE),
    PREFERENCE | {"messages", "tools", "functions"},
    read,
    unless=frozenset({"rejected_messages", "rejected_response"}),
)
