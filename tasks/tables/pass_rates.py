"""How often a pool's answers pass: the share, pass@k, and which prompts are neither too easy nor too hard.

Source: docs/papers.md#pass-at-k, #verified-pairs.
"""

import math
from pathlib import Path
from typing import ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.tables.pool_scores import score_values
from synthmill.tasks.tables.table_stage import TableStage, drops

PASSING = Field(1.0, description="the least score that passes")


class PassRates(TableStage):
    """Pools -> the same with `passed`, `verified` (answers that have a score), `pass_rate` (null without any), and
    `pass_at_K` for each of `k` (null where fewer were verified).
    """

    name: ClassVar = "pass_rates"
    version: ClassVar = "1"
    adds: ClassVar = ("passed", "verified", "pass_rate")

    score: str
    passing: float = PASSING
    k: tuple[int, ...] = (1,)

    @model_validator(mode="after")
    def check_k(self) -> Self:
        if not all(k >= 1 for k in self.k):
            raise ValueError(f"k is {list(self.k)}; expected numbers of answers, from 1")
        return self

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return frame.with_columns(rates_of(frame, f"stage {self.name}", self.score, self.passing, self.k)), []


class PassRateBand(TableStage):
    """Pools -> those whose share of passes is from `lowest` to `highest`, with it as `pass_rate`; the others are
    dropped as `too_hard`, `too_easy` or `not_verified`.
    """

    name: ClassVar = "pass_rate_band"
    version: ClassVar = "1"
    adds: ClassVar = ("pass_rate",)

    score: str
    passing: float = PASSING
    lowest: float = Field(0.2, ge=0, le=1)
    highest: float = Field(0.8, ge=0, le=1)

    @model_validator(mode="after")
    def check_limits(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest is {self.lowest:g}, highest is {self.highest:g}; expected a band")
        return self

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rate = rates_of(frame, f"stage {self.name}", self.score, self.passing)[2]
        kept = rate.is_between(self.lowest, self.highest).fill_null(False)
        dropped: list[Dropped] = []
        for reason, left_out in (
            ("too_hard", (rate < self.lowest).fill_null(False)),
            ("too_easy", (rate > self.highest).fill_null(False)),
            ("not_verified", rate.is_null()),
        ):
            details = (f"pass rate {value:.4g}" if value is not None else "" for value in rate.filter(left_out))
            dropped += drops(frame["id"].filter(left_out), reason, details)
        return frame.with_columns(rate).filter(kept), dropped


def rates_of(
    frame: pl.DataFrame, asked_by: str, score: str, passing: float, ks: tuple[int, ...] = ()
) -> list[pl.Series]:
    """passed, verified, pass_rate and pass_at_K of each pool."""
    values = score_values(frame, asked_by, score)
    if values.dtype == pl.Float64 and not values.null_count() == len(values):
        raise InputError(f"{asked_by}: {score!r} is one number per row; expected one for each answer")
    lists = [[value for value in pool or () if value is not None] for pool in (values.to_list())]
    verified = [len(pool) for pool in lists]
    passed = [sum(value >= passing for value in pool) for pool in lists]
    pairs = list(zip(verified, passed, strict=True))
    return [
        pl.Series("passed", passed, dtype=pl.Int64),
        pl.Series("verified", verified, dtype=pl.Int64),
        pl.Series("pass_rate", [count / number if number else None for number, count in pairs], dtype=pl.Float64),
        *(pl.Series(f"pass_at_{k}", [pass_at_k(*pair, k) for pair in pairs], dtype=pl.Float64) for k in ks),
    ]


def pass_at_k(answers: int, passed: int, k: int) -> float | None:
    """The chance that one of k answers drawn from these passes, without bias: 1 - C(n - c, k) / C(n, k). None where
    there are fewer than k.
    """
    if answers < k:
        return None
    draws = math.comb(answers, k)
    return (draws - math.comb(answers - passed, k)) / draws
