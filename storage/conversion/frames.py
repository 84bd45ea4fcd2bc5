"""Chats as the frames that datasets are made of, which trainers' formats are written from."""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from synthmill.storage.conversion.chat_files import Look
from synthmill.storage.plain_files.chat_rows import ChatKind, ChatRow
from synthmill.storage.published.chats import chat_column, message_fields
from synthmill.storage.published.configurations import Kind

KINDS: Mapping[ChatKind, Kind] = {
    "conversation": "conversations",
    "completion": "completions",
    "label": "labelled",
    "preference": "preferences",
    "prompt": "prompts",
}
"""What tables of such rows are."""
COLUMNS: Mapping[ChatKind, tuple[str, ...]] = {
    "conversation": ("messages",),
    "completion": ("prompt", "completion"),
    "label": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
}


def frame_of(rows: Sequence[ChatRow], ids: Sequence[str], kind: ChatKind, look: Look) -> pl.DataFrame:
    """Rows of one kind; every message has the fields that any message of the file has."""
    fields = message_fields(look.fields)
    chats = [[row.messages, *row.answers] for row in rows]
    columns = [chat_column(name, [parts[place] for parts in chats], fields) for place, name in enumerate(COLUMNS[kind])]
    frame = pl.DataFrame([pl.Series("id", ids, pl.String), *columns])
    if kind == "label":
        frame = frame.with_columns(pl.Series("label", [row.label for row in rows], pl.Boolean))
    if look.has_tools:
        tools = [json.dumps(row.tools, ensure_ascii=False) if row.tools else None for row in rows]
        frame = frame.with_columns(pl.Series("tools", tools, pl.String))
    return frame
