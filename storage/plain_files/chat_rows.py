"""A row of chats, in whatever form a file has it: what readers of forms make (forms/), and what is written of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import Message

ChatKind = Literal["conversation", "completion", "preference", "label", "ranking", "prompt"]


@dataclass(frozen=True)
class ChatRow:
    """Messages, and the answers that stand beside them.

    conversation  messages: all of it
    completion    messages: what comes before the one answer
    label         the same, and whether the answer is wanted
    preference    answers: chosen, rejected
    ranking       answers in the file's order; ranks: one each, the lowest is the best
    prompt        messages without an answer

    others: the row's further columns. lost: names of what the row's form had and this one cannot hold.
    """

    kind: ChatKind
    messages: list[Message]
    answers: list[list[Message]] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    label: bool | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    others: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def chats(self) -> list[list[Message]]:
        """Every chat of the row, whole."""
        return [self.messages + answer for answer in self.answers] or [self.messages]


def as_kinds(row: ChatRow, kinds: tuple[ChatKind, ...]) -> "Made":
    """The row as the first of these kinds that it can be, and names of what that leaves out. Raises Drop."""
    kind = row.kind if row.kind in kinds else next((kind for kind in kinds if kind in MADE_OF[row.kind]), None)
    if kind is None:
        raise Drop(f"is_{row.kind}: expected {' or '.join(kinds)}")
    return MADE_OF[row.kind][kind](row) if kind != row.kind else ([row], [])


Made: TypeAlias = tuple[list[ChatRow], list[str]]
"""Rows of another kind, and names of what they leave out."""


def conversation_of(row: ChatRow) -> Made:
    """Messages and best answer. Raises Drop for an unwanted one, which is none to imitate."""
    check_wanted(row)
    best, left_out = best_answer(row)
    chat = row.messages + best
    return [replace(row, kind="conversation", messages=chat, answers=[], ranks=[], label=None)], left_out


def completion_of(row: ChatRow) -> Made:
    check_wanted(row)
    if row.kind == "conversation":
        before, answer = split_at_last_answer(row.messages)
        return [replace(row, kind="completion", messages=before, answers=[answer])], []
    best, left_out = best_answer(row)
    return [replace(row, kind="completion", answers=[best], ranks=[], label=None)], left_out


def check_wanted(row: ChatRow) -> None:
    if row.kind == "label" and not row.label:
        raise Drop("unwanted_answer: its label is false")


def preference_of(row: ChatRow) -> Made:
    """The best over the worst of ranked answers. Raises Drop where none is better than another."""
    best, worst = min(row.ranks), max(row.ranks)
    if best == worst:
        raise Drop("equal_ranks: no answer is better than another")
    pair = [row.answers[row.ranks.index(rank)] for rank in (best, worst)]
    left_out = ["answers ranked between"] if len(row.answers) > 2 else []
    return [replace(row, kind="preference", answers=pair, ranks=[])], left_out


def labels_of(row: ChatRow) -> Made:
    pairs, left_out = preference_of(row) if row.kind == "ranking" else ([row], [])
    return [
        replace(pair, kind="label", answers=[answer], label=label, others=named(pair.others, side))
        for pair in pairs
        for answer, label, side in zip(pair.answers, (True, False), ("chosen", "rejected"), strict=True)
    ], left_out


def prompt_of(row: ChatRow) -> Made:
    messages = split_at_last_answer(row.messages)[0] if row.kind == "conversation" else row.messages
    return [replace(row, kind="prompt", messages=messages, answers=[], ranks=[], label=None)], ["answers"]


def ranking_of(row: ChatRow) -> Made:
    return [replace(row, kind="ranking", ranks=[0, 1])], []


def best_answer(row: ChatRow) -> tuple[list[Message], list[str]]:
    place = row.ranks.index(min(row.ranks)) if row.ranks else 0
    return row.answers[place], ["other answers"] if len(row.answers) > 1 else []


def shared_prompt(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The messages that both begin with, and what follows in each."""
    length = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if ours != theirs:
            break
        length += 1
    return chosen[:length], [chosen[length:], rejected[length:]]


def split_at_last_answer(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """What comes before the last answer, and that answer. Raises Drop."""
    if not messages or messages[-1]["role"] != "assistant":
        raise Drop("no_answer: the last message is not the assistant's")
    return messages[:-1], messages[-1:]


def named(others: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    return {**others, "id": f"{others['id']}-{side}"} if others.get("id") else others


MADE_OF: Mapping[ChatKind, Mapping[ChatKind, Callable[[ChatRow], Made]]] = {
    "conversation": {"completion": completion_of, "prompt": prompt_of},
    "completion": {"conversation": conversation_of, "prompt": prompt_of},
    "label": {"conversation": conversation_of, "completion": completion_of, "prompt": prompt_of},
    "preference": {
        "label": labels_of,
        "ranking": ranking_of,
        "conversation": conversation_of,
        "completion": completion_of,
        "prompt": prompt_of,
    },
    "ranking": {
        "preference": preference_of,
        "label": labels_of,
        "conversation": conversation_of,
        "completion": completion_of,
        "prompt": prompt_of,
    },
    "prompt": {},
}
"""What a row of a kind can become, and how."""


def differences(before: ChatRow, after: ChatRow) -> list[str]:
    """Names of what a row no longer has after it was written in a form and read again."""
    fields = ("label", "ranks", "tools")
    names = [name for name in fields if getattr(before, name) != getattr(after, name)]
    names += ["answers"] if len(before.chats) != len(after.chats) else []
    for old, new in zip(before.chats, after.chats, strict=False):
        names += chat_differences(old, new)
    return list(dict.fromkeys(names))


def chat_differences(old: list[Message], new: list[Message]) -> list[str]:
    """Names of what differs between two chats; a chat that was cut, or put into a text, has a name of its own."""
    if len(new) < len(old) and VIEWS["turns"](old[: len(new)]) == VIEWS["turns"](new):
        return ["turns after the last answer", *chat_differences(old[: len(new)], new)]
    names = [name for name, view in VIEWS.items() if view(old) != view(new)]
    if len(new) < len(old) and are_within(old, "".join(message["content"] for message in new)):
        return ["turns, kept in one text", *(name for name in names if name not in TURNS)]
    return names


def are_within(chat: list[Message], text: str) -> bool:
    """Whether a text has all of a chat's texts, in their order."""
    end = 0
    for content in (message["content"] for message in chat):
        start = text.find(content, end)
        if start < 0:
            return False
        end = start + len(content)
    return True


def parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def calls_in(chat: list[Message]) -> list[list[tuple[str, Any]]]:
    functions = ([call["function"] for call in message.get("tool_calls", ())] for message in chat)
    return [[(call["name"], parsed(call["arguments"])) for call in calls] for calls in functions if calls]


VIEWS: Mapping[str, Callable[[list[Message]], Any]] = {
    "system messages": lambda chat: [message["content"] for message in chat if message["role"] == "system"],
    "turns": lambda chat: [message["role"] for message in chat if message["role"] != "system"],
    "texts": lambda chat: [
        message["content"] for message in chat if message["role"] != "system" and not message.get("tool_calls")
    ],
    "text beside calls": lambda chat: [message["content"] for message in chat if message.get("tool_calls")],
    "tool calls": calls_in,
    "ids of calls": lambda chat: [
        *(call["id"] for message in chat for call in message.get("tool_calls", ())),
        *(message["tool_call_id"] for message in chat if "tool_call_id" in message),
    ],
    "names of speakers": lambda chat: [message["name"] for message in chat if "name" in message],
    "thinking": lambda chat: [message["reasoning_content"] for message in chat if "reasoning_content" in message],
}
"""What a chat consists of; each is looked at by itself."""
TURNS = ("system messages", "turns", "texts")
