"""Alpaca: `instruction`, `input`, `output`, and, as LLaMA-Factory reads it, `system`, `history` of (prompt, answer),
`chosen` and `rejected`, or `kto_tag`. An empty `input` or `system` is none; an `input` follows its instruction on a new
line, as in LLaMA-Factory 0.9.5.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import Message, tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.sharegpt import answer_of, labelled
from synthmill.storage.plain_files.rows import text_of


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    instruction = text_of(fields.get("instruction"), "instruction")
    query = text_of(fields.get("input") or "", "input")
    messages = earlier(text_of(fields.get("system") or "", "system"), fields.get("history"))
    messages.append({"role": "user", "content": "\n".join(filter(None, (instruction, query)))})
    tools = tools_of(fields.get("tools"), padded=padded)
    if fields.get("chosen") is not None and fields.get("rejected") is not None:
        answers = [answer_of(fields[side], side, {}, padded) for side in ("chosen", "rejected")]
        return ChatRow("preference", messages, answers, tools=tools)
    if fields.get("output") is None:
        return ChatRow("prompt", messages, tools=tools)
    messages.append({"role": "assistant", "content": text_of(fields["output"], "output")})
    if fields.get("kto_tag") is not None:
        return labelled(messages, fields["kto_tag"], tools, {})
    return ChatRow("conversation", messages, tools=tools)


def earlier(system: str, history: Any) -> list[Message]:
    """The system message and earlier exchanges. Raises Drop."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for exchange in history or ():
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise Drop(f"bad_history: an exchange is {exchange!r:.60}; expected [prompt, answer]")
        for role, text in zip(("user", "assistant"), exchange, strict=True):
            messages.append({"role": role, "content": text_of(text, "history")})
    return messages


FORM = Form(
    "alpaca",
    (frozenset({"instruction"}),),
    frozenset({"instruction", "input", "output", "system", "history", "tools", "chosen", "rejected", "kto_tag"}),
    read,
    unless=frozenset({"conversations", "messages"}),
)
