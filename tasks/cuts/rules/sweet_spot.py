"""The answers nearest to two of: min mu-2s mu-s mu mu+s mu+2s max.

Source: docs/papers.md#sweet-spot, whose points are the defaults.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synthmill.tasks.cuts.cut import CutSettings, Places
from synthmill.tasks.cuts.points import POINTS, Pools, SevenPoints, seven_points

Point = Literal["min", "mu-2s", "mu-s", "mu", "mu+s", "mu+2s", "max"]


class SweetSpot(CutSettings):
    """The answers nearest to two points of the rewards' distribution."""

    rule: Literal["sweet-spot"] = "sweet-spot"
    chosen: Point = Field("max", description="a point above `rejected`")
    rejected: Point = Field("mu-2s", description="mu is the pool's mean reward, s its standard deviation")
    ddof: Literal[0, 1] = Field(0, description="0 divides squares by n, 1 by n - 1")

    @model_validator(mode="after")
    def check_order(self) -> Self:
        if POINTS.index(self.chosen) <= POINTS.index(self.rejected):
            raise ValueError(
                f"chosen is {self.chosen}, rejected is {self.rejected}; expected a higher point over a lower one, of "
                f"{' < '.join(POINTS)}"
            )
        return self

    def seven_points(self, pools: Pools) -> SevenPoints:
        return seven_points(pools, self.ddof)

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        """Evidence: mean, std, whether the rejected answer is the lowest."""
        upper, lower = (seven.places[:, [POINTS.index(point)]] for point in (self.chosen, self.rejected))
        evidence = {"mean": seven.mean, "std": seven.std, "rejected_is_min": lower[:, 0] == seven.places[:, 0]}
        return Places(upper, lower, evidence)
