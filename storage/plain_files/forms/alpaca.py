"""Alpaca: `instruction`, `input`, `output`, and, as LLaMA-Factory reads it, `system`, `history` of (prompt, answer),
`chosen` and `rejected`, or `kto_tag`. An empty `input` or `system` is none; an `input` follows its instruction on a new
line, as in LLaMA-Factory 0.9.5.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import ChatReader, Message, text_message
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.sharegpt import answered
from synthmill.storage.plain_files.lines import text_of


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    tools = reader.tools(fields.get("tools"))
    texts = (text_of(fields["instruction"], "instruction"), text_of(fields.get("input") or "", "input"))
    messages = earlier(fields.get("system"), fields.get("history"))
    messages.append(text_message("user", "\n".join(filter(None, texts)), "instruction"))
    if fields.get("output") is not None:
        messages.append(text_message("assistant", fields["output"], "output"))
    elif fields.get("chosen") is None:
        return ChatRow("prompt", messages, tools=tools)
    return answered(messages, fields, tools, reader)


def earlier(system: Any, history: Any) -> list[Message]:
    """The system message and earlier exchanges. Raises Drop."""
    messages = [text_message("system", system, "system")] if system else []
    for exchange in history or ():
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise Drop(f"bad_history: an exchange is {exchange!r:.60}; expected [prompt, answer]")
        messages += [text_message("user", exchange[0], "history"), text_message("assistant", exchange[1], "history")]
    return messages


FORM = Form(
    "alpaca",
    (frozenset({"instruction"}),),
    frozenset({"instruction", "input", "output", "system", "history", "tools", "chosen", "rejected", "kto_tag"}),
    read,
)
