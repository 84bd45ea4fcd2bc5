"""The strong policy's answer over the weak one's, whatever their rewards.

Source: docs/papers.md#delta-learning.
"""

from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cuts.cut import KEPT, ONE_POLICY, POLICIES, CutSettings, Places
from synthmill.tasks.cuts.points import Pools, SevenPoints


class ByPolicy(CutSettings):
    """The strong policy's n-th answer over the weak one's n-th; a margin may be negative."""

    missing_rewards: ClassVar = "ignore"
    reads_policies: ClassVar = True

    rule: Literal["by-policy"] = "by-policy"
    strong: str = Field(min_length=1, description="whose answers are chosen")
    weak: str = Field(min_length=1, description="whose answers are rejected")
    count: int = Field(1, ge=1, le=4096, description="the most pairs of a prompt")

    @property
    def pairs_per_pool(self) -> int:
        return self.count

    def places_in(self, table: pa.Table, pools: Pools, seven: SevenPoints) -> Places:
        """Raises InputError where the table does not say who gave its answers."""
        if POLICIES not in table.column_names:
            raise InputError("by-policy needs to know who gave each answer: a column `policy`, or `policies` (lists)")
        starts = Pools.of(table["rewards"]).starts
        rows = np.repeat(starts[:-1], np.diff(pools.starts)) + pools.local()
        policies = np.asarray(in_one(table[POLICIES]).flatten().to_pylist(), object)[rows]
        most = min(self.count, int(max(np.diff(pools.starts), default=0)))
        chosen, rejected = (np.full((len(pools), most), -1, np.int64) for _ in range(2))
        for side, policy in ((chosen, self.strong), (rejected, self.weak)):
            for pool in range(len(pools)):
                places = np.flatnonzero(policies[pools.starts[pool] : pools.starts[pool + 1]] == policy)[:most]
                side[pool, : len(places)] = places
        paired = ((chosen >= 0) & (rejected >= 0)).any(axis=1)
        return Places(chosen, rejected, {}, np.where(paired, KEPT, ONE_POLICY))
