"""OpenAI's fine-tuning lines, supervised or on preferences."""

import polars as pl

from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.forms.messages import Frame, sft, tools_of

OBJECTS = ("tools", "input.tools")
"""What its lines have as objects."""


def openai(rows: Frame, kind: Kind) -> Frame:
    """`messages` and `tools`; a preference's `input`, `preferred_output` and `non_preferred_output`."""
    if kind == "preferences":
        return rows.select(
            "id",
            input=pl.struct(*tools_of(rows), messages="prompt"),
            preferred_output="chosen",
            non_preferred_output="rejected",
        )
    chats = sft(rows, kind)
    return chats.select("id", "messages", *tools_of(chats))
