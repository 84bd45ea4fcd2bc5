"""Preference rows that trainers read, the pools behind them, and the prompts that were kept."""

from functools import partial
from typing import Any

import polars as pl

from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import preference_rows, thinks

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


def pool_rows(pools: RowStream) -> RowStream:
    """Every pool in the wide form that `synthmill pairs` reads, with a column of numbers per scorer."""
    names: dict[str, None] = {}
    for batch in pools.batches(["scores"]):
        scorers = batch["scores"].explode(empty_as_null=False).struct.field("scorer")
        names |= dict.fromkeys(scorers.drop_nulls().unique(maintain_order=True))
    return pools.map(partial(wide_pools, list(names)))


def wide_pools(names: list[str], pools: pl.DataFrame) -> pl.DataFrame:
    """A batch of pools, with a column for each of these scorers."""
    scores = pools["scores"].to_list()

    def values(name: str) -> list[Any]:
        return [next((score["values"] for score in entries if score["scorer"] == name), None) for entries in scores]

    def answer_fields(field: str) -> pl.Expr:
        return pl.col("answers").list.eval(pl.element().struct.field(field))

    return pools.select(
        prompt_id="id",
        prompt="prompt",
        system="system",
        source="source",
        reference="reference",
        policies=answer_fields("policy"),
        answer_indices=answer_fields("answer_index"),
        finish_reasons=answer_fields("finish_reason"),
        answers=answer_fields("text"),
        **({"reasoning": answer_fields("reasoning")} if thinks(pools.schema["answers"]) else {}),
    ).with_columns(
        pl.Series(f"score_{name}" if name in TAKEN else name, values(name), dtype=pl.List(pl.Float64)) for name in names
    )


TAKEN = (
    *("prompt_id", "prompt", "system", "source", "reference"),
    *("policies", "answer_indices", "finish_reasons", "answers", "reasoning"),
)
