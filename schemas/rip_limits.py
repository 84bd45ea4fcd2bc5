"""RIP's limits of pairs, as files and settings hold them (docs/papers.md#rip)."""

from typing import Literal

from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.schemas.local_paths import LocalPath

LIMITS = ("rejected_reward", "rejected_length", "gap")


class Thresholds(Frozen):
    """RIP's limits: keep a prompt whose rejected answer has at least this reward and this length, and whose gap between
    the rewards is at most this. None: not asked for.
    """

    rejected_reward: float | None = None
    rejected_length: float | None = None
    gap: float | None = None
    length: Literal["characters", "tokens"] = "characters"
    tokenizer: LocalPath = Field("", description="whose tokens; empty: words and punctuation")
    quantiles: dict[str, float] = Field(default_factory=dict, description="at which they were fitted, if they were")
    reward: str = Field("", description="the column or score that they are limits of")
    fitted_on: str = Field("", description="file or flow")
    pairs: int = Field(0, ge=0, description="that they were fitted on")
