"""max-min, of prompts whose rejected answer is good and long and not far below.

Source: docs/papers.md#rip. The limits that say so are fitted or read in pair_limits.py.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.rip_limits import LIMITS, Thresholds
from synthmill.tasks.cuts.cut import CutSettings, Places
from synthmill.tasks.cuts.points import Pools, SevenPoints
from synthmill.tasks.cuts.rules.max_min import MaxMin

MEDIAN = 0.5
QUANTILES = tuple(f"{name}_quantile" for name in LIMITS)
PRESETS: Mapping[str, Thresholds] = {
    "wildchat-armorm": Thresholds(rejected_reward=0.126, rejected_length=1878, gap=0.042),
    "wildchat-judge": Thresholds(rejected_reward=8, rejected_length=1399, gap=1),
    "helpsteer2": Thresholds(rejected_length=1303),
    "self-rip-armorm": Thresholds(rejected_reward=0.126, rejected_length=1878),
}
"""The paper's Table 10, with the gap as an upper limit."""


class Rip(CutSettings):
    """Max-min's pairs, within limits that are fitted on all of them or known before."""

    rule: Literal["rip"] = "rip"
    rejected_reward: float | None = Field(None, description="at least, instead of a quantile")
    rejected_length: float | None = Field(None, description="at least, instead of a quantile")
    gap: float | None = Field(None, description="at most, instead of a quantile")
    rejected_reward_quantile: float | None = Field(MEDIAN, ge=0, le=1, description="of all pairs; null: no such limit")
    rejected_length_quantile: float | None = Field(MEDIAN, ge=0, le=1, description="of all pairs; null: no such limit")
    gap_quantile: float | None = Field(MEDIAN, ge=0, le=1, description="of all pairs; null: no such limit")
    preset: Literal["", "wildchat-armorm", "wildchat-judge", "helpsteer2", "self-rip-armorm"] = Field(
        "", description="the paper's own limits"
    )
    thresholds: LocalPath = Field("", description="a file of limits fitted before")
    length: Literal["characters", "tokens"] = Field("characters", description="what an answer's length counts")
    tokenizer: LocalPath = Field("", description="whose tokens, a Hub id or a folder; default: words and punctuation")

    @model_validator(mode="after")
    def check_limits(self) -> Self:
        own = any(getattr(self, name) != type(self).model_fields[name].default for name in (*LIMITS, *QUANTILES))
        if bool(self.preset) + bool(self.thresholds) + own > 1:
            raise ValueError("expected one of: a preset, a file of thresholds, or limits and quantiles of your own")
        for limit, quantile in zip(LIMITS, QUANTILES, strict=True):
            if getattr(self, limit) is not None and getattr(self, quantile) not in (None, MEDIAN):
                raise ValueError(f"expected {limit} or {quantile}, not both")
        if self.tokenizer and self.length != "tokens":
            raise ValueError("a tokenizer has no effect while length is characters; set length to tokens")
        return self

    @property
    def stored_limits(self) -> str:
        """The preset or the file that holds the limits; empty where they are fitted or given as numbers."""
        return self.thresholds or self.preset

    @property
    def own_limits(self) -> Thresholds:
        """The limits that are given as numbers."""
        unit = {"length": self.length, "tokenizer": self.tokenizer}
        return Thresholds(**unit, **{name: getattr(self, name) for name in LIMITS})

    @property
    def quantiles(self) -> dict[str, float | None]:
        """Which quantile each limit is fitted at."""
        return {name: getattr(self, quantile) for name, quantile in zip(LIMITS, QUANTILES, strict=True)}

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        return MaxMin().places(pools, seven, ids)
