"""The highest reward over the lowest."""

from typing import Any, Literal

from synthmill.tasks.cuts.cut import CutSettings, Places
from synthmill.tasks.cuts.points import Pools, SevenPoints


class MaxMin(CutSettings):
    """The highest reward over the lowest."""

    rule: Literal["max-min"] = "max-min"

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        return Places(seven.places[:, 6:], seven.places[:, :1], {})
