"""Pools as a table: a row per prompt, with lists of answers and of each scorer's numbers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl

from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import thinks


def pool_rows(pools: RowStream, carried: Sequence[str] = ()) -> RowStream:
    """Every pool in the wide form that `synthmill pairs` reads, with a column of numbers per scorer, and the columns
    `carried`.
    """
    names: dict[str, None] = {}
    for batch in pools.batches(["scores"]):
        scorers = batch["scores"].explode(empty_as_null=False).struct.field("scorer")
        names |= dict.fromkeys(scorers.drop_nulls().unique(maintain_order=True))
    return pools.map(partial(wide_pools, list(names), carried=carried))


def wide_pools(names: list[str], pools: pl.DataFrame, carried: Sequence[str] = ()) -> pl.DataFrame:
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
        **{name: name for name in carried if name not in (*TAKEN, *names)},
    ).with_columns(
        pl.Series(f"score_{name}" if name in TAKEN else name, values(name), dtype=pl.List(pl.Float64)) for name in names
    )


TAKEN = (
    *("prompt_id", "prompt", "system", "source", "reference"),
    *("policies", "answer_indices", "finish_reasons", "answers", "reasoning"),
)
