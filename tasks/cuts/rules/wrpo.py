"""The best of all sources, and the best of one's own, over the worst of one's own. Source: docs/papers.md#wrpo."""

from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.cut import KEPT, ONE_POLICY, POLICIES, CutSettings, Places
from synthmill.tasks.cuts.points import Pools, SevenPoints


class Wrpo(CutSettings):
    """The best answer of other policies over one's own worst (pair 0), and one's own best over it (pair 1)."""

    missing_rewards: ClassVar = "leave_out"
    reads_policies: ClassVar = True

    rule: Literal["wrpo"] = "wrpo"
    own: str = Field(min_length=1, description="the policy that is trained; all others are sources")

    @property
    def pairs_per_pool(self) -> int:
        return 2

    def places_in(self, table: pa.Table, pools: Pools, seven: SevenPoints) -> Places:
        """Raises InputError where the table does not say who gave its answers."""
        if POLICIES not in table.column_names:
            raise InputError("wrpo needs to know who gave each answer: a column `policy`, or `policies` (lists)")
        starts = Pools.of(table["rewards"]).starts
        rows = np.repeat(starts[:-1], np.diff(pools.starts)) + pools.local()
        own = np.asarray(in_one(table[POLICIES]).flatten().to_pylist(), object)[rows] == self.own
        chosen, rejected = (np.full((len(pools), 2), -1, np.int64) for _ in range(2))
        reasons = np.full(len(pools), ONE_POLICY, np.int8)
        for pool in range(len(pools)):
            begin, end = pools.starts[pool], pools.starts[pool + 1]
            rewards, is_own = pools.rewards[begin:end], own[begin:end]
            if is_own.any() and not is_own.all():
                chosen[pool] = best(rewards, ~is_own), best(rewards, is_own)
                rejected[pool] = best(-rewards, is_own)
                reasons[pool] = KEPT
        return Places(chosen, rejected, {}, reasons)


def best(rewards: Array, among: Array) -> int:
    """The place of the highest reward among some answers; of equal ones the lowest."""
    return int(np.argmax(np.where(among, rewards, -np.inf)))
