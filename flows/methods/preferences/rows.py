"""Preference rows that trainers read, and the prompts that were kept."""

import polars as pl

from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import preference_rows

STAYS = pl.col("kept") & pl.col("within")

MORE = (
    "margin",
    "chosen_index",
    "rejected_index",
    "chosen_policy",
    "rejected_policy",
    "rejected_length",
    "flags",
    "evidence",
)


def pair_rows(pairs: RowStream) -> RowStream:
    """Pairs of one rule that stay, in TRL's conversational format, with the evidence."""
    return pairs.filter(STAYS).map(
        lambda batch: pl.concat([preference_rows(batch), batch.select(MORE)], how="horizontal")
    )


def prompt_rows(pairs: RowStream) -> RowStream:
    """The prompts whose pairs stay, for Self-RIP."""
    staying = pairs.filter(STAYS).unique("parent_id")
    return staying.map(lambda batch: batch.select(id="parent_id", prompt="prompt", system="system", source="source"))
