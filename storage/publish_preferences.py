"""Preference rows that trainers read, the pools behind them, and the prompts that were kept."""

from typing import Any

import polars as pl

from storage.publish import preference_rows

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


def pair_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs of one rule that stay, in TRL's conversational format, with the evidence."""
    staying = pairs.filter(pl.col("kept") & pl.col("within"))
    return pl.concat([preference_rows(staying), staying.select(MORE)], how="horizontal")


def prompt_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """The prompts whose pairs stay, for Self-RIP."""
    staying = pairs.filter(pl.col("kept") & pl.col("within")).unique("parent_id", maintain_order=True)
    return staying.select(id="parent_id", prompt="prompt", system="system", source="source")


def pool_rows(pools: pl.DataFrame) -> pl.DataFrame:
    """Every pool in the wide form that `synthmill pairs` reads, with a column of numbers per scorer."""
    names = list(
        dict.fromkeys(
            name for names in pools["scores"].list.eval(pl.element().struct.field("scorer")) for name in names
        )
    )

    def values(name: str) -> list[Any]:
        return [
            next((one["values"] for one in scores if one["scorer"] == name), None)
            for scores in pools["scores"].to_list()
        ]

    def each(field: str) -> pl.Expr:
        return pl.col("answers").list.eval(pl.element().struct.field(field))

    return pools.select(
        prompt_id="id",
        prompt="prompt",
        system="system",
        source="source",
        reference="reference",
        policies=each("policy"),
        answer_indices=each("answer_index"),
        finish_reasons=each("finish_reason"),
        answers=each("text"),
    ).with_columns(
        pl.Series(f"score_{name}" if name in TAKEN else name, values(name), dtype=pl.List(pl.Float64)) for name in names
    )


TAKEN = (
    *("prompt_id", "prompt", "system", "source", "reference"),
    *("policies", "answer_indices", "finish_reasons", "answers"),
)
