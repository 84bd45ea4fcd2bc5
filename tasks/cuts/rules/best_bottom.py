"""The highest reward over the one a share of the way up from the lowest."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from synthmill.tasks.cuts.cut import CutSettings, Places
from synthmill.tasks.cuts.points import Pools, SevenPoints, ordered


class BestBottom(CutSettings):
    """The highest reward over the one at `bottom_percent` of the way from the lowest to the highest place."""

    rule: Literal["best-bottom"] = "best-bottom"
    bottom_percent: float = Field(25, ge=0, le=100, description="where the rejected answer stands")

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        counts = np.diff(pools.starts)
        at = np.floor(self.bottom_percent / 100 * (counts - 1)).astype(np.int64)
        rejected = np.full(len(pools), -1, np.int64)
        nonempty = counts > 0
        rejected[nonempty] = ordered(pools)[pools.starts[:-1][nonempty] + at[nonempty]]
        return Places(seven.places[:, 6:], rejected[:, None], {})
