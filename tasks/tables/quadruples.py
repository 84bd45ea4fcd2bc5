"""WRPO's quadruples: a prompt, the best answer of all sources, and one's own best and worst.

Source: docs/papers.md#wrpo.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.tasks.cuts.cut import cut
from synthmill.tasks.cuts.pool_pairs import PoolReading
from synthmill.tasks.cuts.rules.wrpo import Wrpo
from synthmill.tasks.tables.pool_scores import beside_answers
from synthmill.tasks.tables.table_stage import TableStage, drops

ROW = {
    "place": pl.Int64,
    "id": pl.String,
    "parent_id": pl.String,
    "chosen_source": pl.String,
    "chosen": pl.String,
    "rejected": pl.String,
    "source_policy": pl.String,
    "source_reward": pl.Float64,
    "chosen_reward": pl.Float64,
    "rejected_reward": pl.Float64,
}


class Quadruples(TableStage, PoolReading):
    """Pools of several policies -> a row each: `chosen_source`, the best answer of any policy but `own`, `chosen` and
    `rejected`, the best and the worst of `own`, with their rewards, beside the pool's other columns. score: the
    rewards' label. A pool without both pairs is dropped as `no_quadruple`.
    """

    name: ClassVar = "quadruples"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "answers", "scores")

    own: str = Field(min_length=1, description="the policy that is trained; all others are sources")

    def columns_read(self) -> Sequence[str]:
        return self.needs

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        pairs = cut(self.table(frame), Wrpo(own=self.own)).pairs.to_pylist()
        sides: dict[str, dict[int, dict[str, Any]]] = {}
        for pair in pairs:
            sides.setdefault(pair["prompt_id"], {})[pair["pair"]] = pair
        rows, without = [], []
        for place, (row_id, answers) in enumerate(zip(frame["id"], frame["answers"].to_list(), strict=True)):
            source, own = (sides.get(row_id, {}).get(number) for number in (0, 1))
            if source is None or own is None:
                without.append(row_id)
                continue
            rows.append(
                {"place": place, "id": child_id(row_id, self.name), "parent_id": row_id}
                | {"chosen_source": source["chosen"], "source_reward": source["chosen_reward"]}
                | {"source_policy": answers[source["chosen_index"]]["policy"]}
                | {name: own[name] for name in ("chosen", "rejected", "chosen_reward", "rejected_reward")}
            )
        quadruples = pl.DataFrame(rows, schema=ROW)
        own_columns = frame.select(name for name in beside_answers(frame) if name not in ROW)[
            quadruples["place"].to_list()
        ]
        detail = f"it needs a best source above the worst of {self.own}, and two unequal ones of its own"
        table = pl.concat([quadruples.drop("place"), own_columns], how="horizontal")
        return table, drops(without, "no_quadruple", [detail] * len(without))
