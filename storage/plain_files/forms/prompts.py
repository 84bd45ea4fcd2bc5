"""Prompts alone: `prompt`, messages or a text, with `system` beside it; what online methods begin with."""

from collections.abc import Mapping
from typing import Any

from synthmill.storage.plain_files.chat_messages import tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.sharegpt import with_system
from synthmill.storage.plain_files.forms.trl import messages_of


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    messages = with_system(messages_of(fields["prompt"], "prompt", "user", lost, padded), fields, lost)
    return ChatRow("prompt", messages, tools=tools_of(fields.get("tools"), padded=padded), lost=tuple(lost))


FORM = Form(
    "prompts",
    (frozenset({"prompt"}),),
    frozenset({"prompt", "system", "tools"}),
    read,
    unless=frozenset({"completion", "chosen", "rejected", "messages", "conversations", "instruction", "completions"}),
)
