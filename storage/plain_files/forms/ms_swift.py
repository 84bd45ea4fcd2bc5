"""ms-swift: `messages` with the chosen answer, and `rejected_messages` or `rejected_response`; with `label` for KTO.

Source: ms-swift 4.6, docs on custom datasets.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import chat_of, tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow, split_at_last_answer
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.trl import shared_prompt


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    messages = chat_of(fields["messages"], "messages", lost, padded=padded)
    tools = tools_of(fields.get("tools"), padded=padded)
    if fields.get("rejected_messages") is not None:
        rejected = chat_of(fields["rejected_messages"], "rejected_messages", lost, padded=padded)
        prompt, answers = shared_prompt(messages, rejected)
        return ChatRow("preference", prompt, answers, tools=tools, lost=tuple(lost))
    prompt, answer = split_at_last_answer(messages)
    if isinstance(text := fields.get("rejected_response"), str):
        return ChatRow("preference", prompt, [answer, [{"role": "assistant", "content": text}]], tools=tools)
    if not isinstance(label := fields.get("label"), bool):
        raise Drop("no_rejected: expected rejected_messages, rejected_response, or a label that is true or false")
    return ChatRow("label", prompt, [answer], label=label, tools=tools, lost=tuple(lost))


FORM = Form(
    "ms-swift",
    (frozenset({"messages", "rejected_messages"}), frozenset({"messages", "rejected_response"})),
    frozenset({"messages", "rejected_messages", "rejected_response", "label", "tools"}),
    read,
)
