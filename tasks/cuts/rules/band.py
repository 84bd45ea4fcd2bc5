"""pass-over-fail, of prompts that are neither too easy nor too hard.

Source: docs/papers.md#verified-pairs.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from synthmill.tasks.cuts.cut import OUTSIDE_BAND
from synthmill.tasks.cuts.rules.pass_over_fail import PassOverFail


class Band(PassOverFail):
    """Pass over fail, of prompts whose share of passes is between two limits."""

    rule: Literal["band"] = "band"  # type: ignore[assignment]
    lowest: float = Field(0.2, ge=0, le=1, description="share of a prompt's answers that pass, at least")
    highest: float = Field(0.8, ge=0, le=1, description="at most")

    @model_validator(mode="after")
    def check_limits(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest is {self.lowest:g}, highest is {self.highest:g}; expected a band")
        return self

    def reason(self, rate: float) -> int:
        inside = self.lowest <= rate <= self.highest
        return super().reason(rate) if inside else OUTSIDE_BAND if 0 < rate < 1 else super().reason(rate)
