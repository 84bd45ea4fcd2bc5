"""OpenAI: `messages` with `tools`, or `input`, `preferred_output`, `non_preferred_output`; TRL's, axolotl's, ms-swift's
and others' conversations are the same.

Source: the reference of OpenAI's fine-tuning files, supervised and by preference.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import chat_of, tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form

PREFERENCE = frozenset({"input", "preferred_output", "non_preferred_output"})


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    tools = fields.get("tools") or fields.get("functions")
    if fields.get("messages") is not None:
        messages = chat_of(fields["messages"], "messages", lost, padded=padded)
        return ChatRow("conversation", messages, tools=tools_of(tools, padded=padded), lost=tuple(lost))
    request = fields["input"]
    if not isinstance(request, Mapping):
        raise Drop(f"bad_input: found {type(request).__name__}; expected {{messages}}")
    sides = ("preferred_output", "non_preferred_output")
    return ChatRow(
        "preference",
        chat_of(request.get("messages"), "input", lost, padded=padded),
        [chat_of(fields[side], side, lost, padded=padded) for side in sides],
        tools=tools_of(request.get("tools") or tools, padded=padded),
        lost=tuple(lost),
    )


FORM = Form(
    "openai",
    (frozenset({"messages"}), PREFERENCE),
    PREFERENCE | {"messages", "tools", "functions"},
    read,
    unless=frozenset({"rejected_messages", "rejected_response"}),
)
