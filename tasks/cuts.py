"""Cuts: choices by score, each one plain function over columns. Score once, cut as often as you like."""

from pathlib import Path
from typing import ClassVar

import polars as pl

from schemas.hashing import child_id
from schemas.rows import Dropped, Pair
from tasks.frames import FrameStage


def max_min(rewards: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """(place of the chosen, place of the rejected answer): highest and lowest reward, ties to the lowest place."""
    return rewards.list.arg_max(), rewards.list.arg_min()


class MaxMinPairs(FrameStage):
    """Pools with `rewards` -> one pair each: the best answer over the worst. Source: docs/papers.md#rip, step 3.

    Drops, by reason: n<2, nan_reward, equal_reward, same_text.
    """

    name: ClassVar = "pairs"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "system", "source", "note", "answers", "rewards")
    adds: ClassVar = tuple(Pair.model_fields)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        chosen, rejected = max_min(pl.col("rewards"))
        at = frame.with_columns(chosen=chosen, rejected=rejected).with_columns(
            chosen_reward=pl.col("rewards").list.get(pl.col("chosen"), null_on_oob=True),
            rejected_reward=pl.col("rewards").list.get(pl.col("rejected"), null_on_oob=True),
            chosen_answer=pl.col("answers").list.get(pl.col("chosen"), null_on_oob=True),
            rejected_answer=pl.col("answers").list.get(pl.col("rejected"), null_on_oob=True),
        )
        verdict = (
            pl.when(pl.col("rewards").list.len() < 2)
            .then(pl.lit("n<2"))
            .when(pl.col("rewards").list.eval(pl.element().is_nan() | pl.element().is_null()).list.any())
            .then(pl.lit("nan_reward"))
            .when(pl.col("chosen_reward") <= pl.col("rejected_reward"))
            .then(pl.lit("equal_reward"))
            .when(pl.col("chosen_answer").struct.field("text") == pl.col("rejected_answer").struct.field("text"))
            .then(pl.lit("same_text"))
        )
        at = at.with_columns(verdict=verdict)
        out = at.filter(pl.col("verdict").is_null())
        pairs = out.select(
            pl.Series("id", [child_id(parent, self.name) for parent in out["id"]], dtype=pl.String),
            parent_id=pl.col("id"),
            prompt=pl.col("prompt"),
            system=pl.col("system"),
            source=pl.col("source"),
            note=pl.col("note"),
            chosen=pl.col("chosen_answer").struct.field("text"),
            rejected=pl.col("rejected_answer").struct.field("text"),
            chosen_index=pl.col("chosen_answer").struct.field("answer_index"),
            rejected_index=pl.col("rejected_answer").struct.field("answer_index"),
            chosen_reward=pl.col("chosen_reward"),
            rejected_reward=pl.col("rejected_reward"),
            cut=pl.lit("max_min"),
        )
        lost = at.filter(pl.col("verdict").is_not_null()).select("id", "verdict")
        return pairs, [Dropped(id=row_id, reason=reason) for row_id, reason in lost.iter_rows()]
