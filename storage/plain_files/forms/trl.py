"""TRL: `prompt` and `completion` (with `label` for KTO), or `chosen` and `rejected` with or without `prompt`; messages
or texts.

Without a prompt, chosen and rejected share one: the messages that both begin with. Of texts, TRL 1.16 takes the
characters that both begin with; here the prompt ends at a word, so that no answer begins within one.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import Message, chat_of, tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.rows import text_of


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    tools = tools_of(fields.get("tools"), padded=padded)
    if fields.get("chosen") is None or fields.get("rejected") is None:
        prompt = messages_of(fields["prompt"], "prompt", "user", lost, padded)
        answer = messages_of(fields.get("completion"), "completion", "assistant", lost, padded)
        if (label := fields.get("label")) is None:
            return ChatRow("completion", prompt, [answer], tools=tools, lost=tuple(lost))
        if not isinstance(label, bool):
            raise Drop(f"bad_label: found {label!r:.40}; expected true or false")
        return ChatRow("label", prompt, [answer], label=label, tools=tools, lost=tuple(lost))
    sides = [fields["chosen"], fields["rejected"]]
    if fields.get("prompt") is not None:
        prompt = messages_of(fields["prompt"], "prompt", "user", lost, padded)
        answers = [messages_of(side, "answer", "assistant", lost, padded) for side in sides]
        answers = [rest_after(prompt, answer) for answer in answers]
        return ChatRow("preference", prompt, answers, tools=tools, lost=tuple(lost))
    if all(isinstance(side, str) for side in sides):
        shared = shared_text(*sides)
        prompt = [{"role": "user", "content": shared}] if shared else []
        answers = [[{"role": "assistant", "content": side[len(shared) :]}] for side in sides]
        return ChatRow("preference", prompt, answers, tools=tools)
    prompt, answers = shared_prompt(*(chat_of(side, "answer", lost, padded=padded) for side in sides))
    return ChatRow("preference", prompt, answers, tools=tools, lost=tuple(lost))


def messages_of(value: Any, column: str, role: str, lost: dict[str, None], padded: bool) -> list[Message]:
    """Messages, or a text as one message of a role. Raises Drop."""
    if isinstance(value, list):
        return chat_of(value, column, lost, padded=padded)
    return [{"role": role, "content": text_of(value, column)}]


def rest_after(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """An answer without the prompt, which some files repeat in it."""
    repeats = len(answer) > len(prompt) and answer[: len(prompt)] == prompt
    return answer[len(prompt) :] if repeats else answer


def shared_prompt(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The messages that both begin with, and what follows in each."""
    length = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if ours != theirs:
            break
        length += 1
    return chosen[:length], [chosen[length:], rejected[length:]]


def shared_text(chosen: str, rejected: str) -> str:
    """What both texts begin with, up to a word's end."""
    length = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        length += 1
    length = min(length, len(chosen) - 1, len(rejected) - 1)
    while length > 0 and not chosen[length].isspace():
        length -= 1
    return chosen[: max(length, 0)].rstrip()


FORM = Form(
    "trl",
    (frozenset({"chosen", "rejected"}), frozenset({"prompt", "completion"})),
    frozenset({"prompt", "chosen", "rejected", "completion", "label", "tools"}),
    read,
    unless=frozenset({"conversations", "instruction"}),
)
