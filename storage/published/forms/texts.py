"""Chats as texts, for trainers that apply no chat template."""

import polars as pl

from synthmill.storage.published.chats import Chat, chats_in
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.forms.messages import Frame, last_content, provenance_of


def dpo_plain(rows: Frame, _: Kind) -> Frame:
    """`prompt`, `chosen`, `rejected` as texts."""
    return rows.select(
        *provenance_of(rows),
        prompt=pl.Series("prompt", [prompt_text(chat) for chat in chats_in(rows["prompt"])], pl.String),
        chosen=last_content("chosen"),
        rejected=last_content("rejected"),
    )


def prompt_text(messages: Chat) -> str:
    """A single message as it is, after its system message; a longer chat with the roles' names."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    turns = [message for message in messages if message["role"] != "system"]
    if len(turns) == 1:
        return "\n\n".join([*system, turns[0]["content"]])
    return "\n\n".join(
        [*system, *(f"{message['role'].capitalize()}: {message['content']}" for message in turns), "Assistant:"]
    )
