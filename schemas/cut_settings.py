"""How pairs are cut from pools of answers with rewards. Defaults are the papers' (docs/papers.md#rip, #sweet-spot)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.settings import Spelled, only_its_own

Rule = Literal[
    "max-min",
    "sweet-spot",
    "rip",
    "scalable",
    "best-random",
    "best-bottom",
    "top-k",
    "random-pairs",
    "tournament",
]
Point = Literal["min", "mu-2s", "mu-s", "mu", "mu+s", "mu+2s", "max"]
POINT_ORDER = ("min", "mu-2s", "mu-s", "mu", "mu+s", "mu+2s", "max")
LIMITS = ("rejected_reward", "rejected_length", "gap")
QUANTILES = tuple(f"{name}_quantile" for name in LIMITS)
DRAWING: tuple[Rule, ...] = ("scalable", "best-random", "random-pairs", "tournament")
MANY: tuple[Rule, ...] = ("top-k", "random-pairs")
FIELDS_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("chosen", "rejected", "ddof"), ("sweet-spot",)),
    **dict.fromkeys((*LIMITS, *QUANTILES, "preset", "thresholds", "length", "tokenizer"), ("rip",)),
    "draw": ("scalable",),
    "bottom_percent": ("best-bottom",),
    "count": MANY,
    "seed": DRAWING,
}


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


PRESETS: Mapping[str, Thresholds] = {
    "wildchat-armorm": Thresholds(rejected_reward=0.126, rejected_length=1878, gap=0.042),
    "wildchat-judge": Thresholds(rejected_reward=8, rejected_length=1399, gap=1),
    "helpsteer2": Thresholds(rejected_length=1303),
    "self-rip-armorm": Thresholds(rejected_reward=0.126, rejected_length=1878),
}
"""RIP's Table 10, with the gap as an upper limit (docs/papers.md#rip)."""


class CutSettings(Spelled):
    """One rule. May be written as its name: max-min, sweet-spot, rip, scalable, best-random, best-bottom, top-k,
    random-pairs, tournament; with settings beside it: {spec: sweet-spot, rejected: mu-s}.
    """

    rule: Rule
    name: str = Field("", description="what its pairs are called; default: the rule", pattern=r"^[\w.-]*$")
    chosen: Point = Field("max", description="sweet-spot: a point above `rejected`")
    rejected: Point = Field("mu-2s", description="sweet-spot: mu is the pool's mean reward, s its standard deviation")
    ddof: Literal[0, 1] = Field(0, description="sweet-spot: 0 divides squares by n, 1 by n - 1")
    rejected_reward: float | None = Field(None, description="rip: at least, instead of a quantile")
    rejected_length: float | None = Field(None, description="rip: at least, instead of a quantile")
    gap: float | None = Field(None, description="rip: at most, instead of a quantile")
    rejected_reward_quantile: float | None = Field(
        0.5, ge=0, le=1, description="rip: of all pairs; null: no such limit"
    )
    rejected_length_quantile: float | None = Field(
        0.5, ge=0, le=1, description="rip: of all pairs; null: no such limit"
    )
    gap_quantile: float | None = Field(0.5, ge=0, le=1, description="rip: of all pairs; null: no such limit")
    preset: Literal["", "wildchat-armorm", "wildchat-judge", "helpsteer2", "self-rip-armorm"] = Field(
        "", description="rip: the paper's own limits"
    )
    thresholds: LocalPath = Field("", description="rip: a file of limits fitted before")
    length: Literal["characters", "tokens"] = Field("characters", description="rip: what an answer's length counts")
    tokenizer: LocalPath = Field(
        "", description="rip: whose tokens, a Hub id or a folder; default: words and punctuation"
    )
    draw: int = Field(5, ge=2, le=4096, description="scalable: the rejected answer is the lowest of so many drawn ones")
    bottom_percent: float = Field(25, ge=0, le=100, description="best-bottom: where the rejected answer stands")
    count: int = Field(1, ge=1, le=4096, description="top-k, random-pairs: the most pairs of a prompt")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of what is drawn")

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        return {"rule": spec}

    @model_validator(mode="after")
    def sound(self) -> "CutSettings":
        only_its_own(self, self.rule, FIELDS_OF)
        if self.rule == "sweet-spot" and POINT_ORDER.index(self.chosen) <= POINT_ORDER.index(self.rejected):
            raise ValueError(
                f"chosen is {self.chosen}, rejected is {self.rejected}; expected a higher point over a lower one, of "
                f"{' < '.join(POINT_ORDER)}"
            )
        fixed = bool(self.preset) + bool(self.thresholds)
        if fixed > 1 or (
            fixed
            and any(getattr(self, name) != type(self).model_fields[name].default for name in (*LIMITS, *QUANTILES))
        ):
            raise ValueError("expected one of: a preset, a file of thresholds, or limits and quantiles of your own")
        for limit, quantile in zip(LIMITS, QUANTILES, strict=True):
            if getattr(self, limit) is not None and getattr(self, quantile) not in (None, 0.5):
                raise ValueError(f"expected {limit} or {quantile}, not both")
        if self.tokenizer and self.length != "tokens":
            raise ValueError("a tokenizer has no effect while length is characters; set length to tokens")
        return self

    @property
    def label(self) -> str:
        return self.name or self.rule

    @property
    def pairs_per_pool(self) -> int:
        return self.count if self.rule in MANY else 1
