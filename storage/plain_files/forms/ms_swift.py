"""ms-swift: `messages` with the chosen answer, and `rejected_messages` or `rejected_response`; with `label` for KTO.

Source: ms-swift 4.6, docs on custom datasets.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import ChatReader, text_message
from synthmill.storage.plain_files.chat_rows import ChatRow, shared_prompt, split_at_last_answer
from synthmill.storage.plain_files.forms import Form


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    tools = reader.tools(fields.get("tools"))
    messages = reader.chat(fields["messages"], "messages")
    if fields.get("rejected_messages") is not None:
        prompt, answers = shared_prompt(messages, reader.chat(fields["rejected_messages"], "rejected_messages"))
        return ChatRow("preference", prompt, answers, tools=tools)
    prompt, answer = split_at_last_answer(messages)
    if fields.get("rejected_response") is not None:
        rejected = text_message("assistant", fields["rejected_response"], "rejected_response")
        return ChatRow("preference", prompt, [answer, [rejected]], tools=tools)
    if not isinstance(label := fields.get("label"), bool):
        raise Drop("no_rejected: expected rejected_messages, rejected_response, or a label that is true or false")
    return ChatRow("label", prompt, [answer], label=label, tools=tools)


FORM = Form(
    "ms-swift",
    (frozenset({"messages", "rejected_messages"}), frozenset({"messages", "rejected_response"})),
    frozenset({"messages", "rejected_messages", "rejected_response", "label", "tools"}),
    read,
)
