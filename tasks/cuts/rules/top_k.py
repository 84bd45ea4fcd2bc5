"""The n-th highest reward over the n-th lowest."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from synthmill.tasks.cuts.cut import CutSettings, Places
from synthmill.tasks.cuts.points import Pools, SevenPoints, ordered


class TopK(CutSettings):
    """The n-th highest reward over the n-th lowest."""

    rule: Literal["top-k"] = "top-k"
    count: int = Field(1, ge=1, le=4096, description="the most pairs of a prompt")

    @property
    def pairs_per_pool(self) -> int:
        return self.count

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        counts, order, ascending = np.diff(pools.starts), ordered(pools, ascending=False), ordered(pools)
        most = min(self.count, max(counts, default=0) // 2)
        shape = (len(pools), most)
        chosen, rejected = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        for n in range(most):
            enough = counts >= 2 * (n + 1)
            at = pools.starts[:-1][enough] + n
            chosen[enough, n], rejected[enough, n] = order[at], ascending[at]
        return Places(chosen, rejected, {})
