"""The best answer over the worst, for flows whose pools have `rewards`."""

from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa

from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped, Pair, arrow_schema, row_columns
from synthmill.storage.published.rows import thinks
from synthmill.tasks.cuts.cut import REASONS, SIDES, THINKING, cut
from synthmill.tasks.cuts.rules.max_min import MaxMin
from synthmill.tasks.frames import FrameStage

CARRIED = ("prompt", "system", "source", "note")


class MaxMinPairs(FrameStage):
    """Pools with `rewards` -> one pair each: the best answer over the worst. Source: docs/papers.md#rip, step 3.

    Drops, by reason: n<2, nan_reward, equal_reward, same_text, content_filter.
    """

    name: ClassVar = "pairs"
    version: ClassVar = "2"
    needs: ClassVar = ("id", *CARRIED, "answers", "rewards")
    adds: ClassVar = row_columns(Pair)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        fields = {"answers": "text", "finish_reasons": "finish_reason"}
        if thinking := thinks(frame.schema["answers"]):
            fields |= {THINKING: THINKING}
        lists = {name: pl.col("answers").list.eval(pl.element().struct.field(of)) for name, of in fields.items()}
        table = frame.select(prompt_id="id", rewards="rewards", **lists).to_arrow(compat_level=pl.CompatLevel.oldest())
        cut_pools = cut(with_small_lists(table), MaxMin())
        pairs = pl.DataFrame(cut_pools.pairs)
        pools = frame.select(
            "id", *CARRIED, indexes=pl.col("answers").list.eval(pl.element().struct.field("answer_index"))
        )
        joined = pairs.join(pools, left_on="prompt_id", right_on="id", how="left", maintain_order="left")
        rows = joined.select(
            pl.Series("id", [child_id(parent, self.name) for parent in joined["prompt_id"]], dtype=pl.String),
            *CARRIED,
            "chosen",
            "rejected",
            "chosen_reward",
            "rejected_reward",
            *(f"{side}_{THINKING}" for side in SIDES if thinking),
            parent_id="prompt_id",
            chosen_index=pl.col("indexes").list.get(pl.col("chosen_index")),
            rejected_index=pl.col("indexes").list.get(pl.col("rejected_index")),
            cut=pl.lit("max_min"),
        )
        drops = [
            Dropped(id=row, reason=REASONS[code])
            for row, code in zip(frame["id"], cut_pools.reasons, strict=True)
            if code
        ]
        return rows.select(arrow_schema(Pair, thinking).names), drops


def with_small_lists(table: pa.Table) -> pa.Table:
    """Lists and texts with 32-bit offsets, as Parquet gives them."""
    texts = pa.list_(pa.string())
    kinds = {"answers": texts, "rewards": pa.list_(pa.float64()), "finish_reasons": texts, THINKING: texts}
    return pa.table({name: table[name].cast(kinds.get(name, pa.string())) for name in table.column_names})
