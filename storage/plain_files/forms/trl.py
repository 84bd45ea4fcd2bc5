"""TRL: `prompt` and `completion` (with `label` for KTO), or `chosen` and `rejected` with or without `prompt`; messages
or texts.

Without a prompt, chosen and rejected share one: the messages that both begin with. Of texts, TRL 1.16 takes the
characters that both begin with; here the prompt ends at a word, so that no answer begins within one.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import ChatReader, Message, text_message
from synthmill.storage.plain_files.chat_rows import ChatRow, shared_prompt
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.sharegpt import with_system


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    tools = reader.tools(fields.get("tools"))
    if fields.get("chosen") is None or fields.get("rejected") is None:
        prompt = prompt_of(fields, reader)
        answer = reader.texts_or_chat(fields.get("completion"), "completion", "assistant")
        if (label := fields.get("label")) is None:
            return ChatRow("completion", prompt, [answer], tools=tools)
        if not isinstance(label, bool):
            raise Drop(f"bad_label: found {label!r:.40}; expected true or false")
        return ChatRow("label", prompt, [answer], label=label, tools=tools)
    sides = [fields["chosen"], fields["rejected"]]
    if fields.get("prompt") is not None:
        prompt = prompt_of(fields, reader)
        answers = [rest_after(prompt, reader.texts_or_chat(side, "answer", "assistant")) for side in sides]
        return ChatRow("preference", prompt, answers, tools=tools)
    if all(isinstance(side, str) for side in sides):
        shared = shared_text(*sides)
        prompt = [text_message("user", shared, "prompt")] if shared else []
        answers = [[text_message("assistant", side[len(shared) :], "answer")] for side in sides]
        return ChatRow("preference", prompt, answers, tools=tools)
    prompt, answers = shared_prompt(*(reader.chat(side, "answer") for side in sides))
    return ChatRow("preference", prompt, answers, tools=tools)


def prompt_of(fields: Mapping[str, Any], reader: ChatReader) -> list[Message]:
    """The column `prompt`, after the column `system`, which files of prompts have beside it. Raises Drop."""
    return with_system(reader.texts_or_chat(fields["prompt"], "prompt", "user"), fields, reader)


def rest_after(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """An answer without the prompt, which some files repeat in it."""
    repeats = len(answer) > len(prompt) and answer[: len(prompt)] == prompt
    return answer[len(prompt) :] if repeats else answer


def shared_text(chosen: str, rejected: str) -> str:
    """What both texts begin with, up to a word's end; each goes on after it."""
    length = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if ours != theirs:
            break
        length += 1
    while length > 0 and not chosen[length].isspace():
        length -= 1
    return chosen[:length].rstrip()


FORM = Form(
    "trl",
    (frozenset({"chosen", "rejected"}), frozenset({"prompt", "completion"})),
    frozenset({"prompt", "system", "chosen", "rejected", "completion", "label", "tools"}),
    read,
    unless=frozenset({"conversations", "instruction"}),
)
