"""Mixtures: how many rows of each group stay, and which. Source: docs/papers.md#mixtures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.draws import seeds_of
from synthmill.tasks.tables.table_stage import WholeTableStage, drops

NULL = "null"
"""What the group of rows without a value is called."""
SLACK = 1e-9


class Mixture(WholeTableStage):
    """Rows -> some of each group, a group being the rows that are equal in the column `by`, in their old order; the
    others are dropped as `not_in_mixture`, with their group.

    shares: group -> its proportion, of those named; rows of other groups are dropped. Without them a group's
    proportion is its size to the power 1 / `temperature`: 1 keeps the proportions, more brings them closer together.
    cap: the most rows of a group. count: exactly so many rows; without it, all that the caps leave, or, where
    proportions are set, as many as keep them exact. short: what happens where a group has too few rows for `count`:
    `fill` takes more of the others (all rows, if they are too few together), `shrink` takes fewer rows.

    Which rows of a group stay is decided by a hash of their ids: each row that is added displaces at most one of its
    group, and moves a group's number by one here and there.
    """

    name: ClassVar = "mixture"
    version: ClassVar = "1"

    by: str
    shares: dict[str, float] = Field(default_factory=dict, description="group -> its part of the rows; any scale")
    temperature: float = Field(1.0, ge=0.01, description="1: as the groups are; 1000: all groups alike")
    cap: int | None = Field(None, ge=1, description="the most rows of a group")
    count: int | None = Field(None, ge=1)
    short: Literal["fill", "shrink"] = "fill"
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def shares_are_shares(self) -> Self:
        if any(share <= 0 or not np.isfinite(share) for share in self.shares.values()):
            raise ValueError("shares: each is a number above 0; leave out a group that shall have no row")
        if self.shares and self.temperature != 1.0:
            raise ValueError("temperature has no effect beside shares; leave one of them out")
        return self

    def columns_read(self) -> Sequence[str]:
        return (self.by,)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        kind = frame.schema[self.by]
        if kind.is_nested():
            raise InputError(f"stage {self.name}: the column {self.by!r} holds {kind}; expected one value per row")
        groups = frame[self.by].cast(pl.String).fill_null(NULL)
        quotas = self.quotas(dict(groups.value_counts().iter_rows()))
        keys = pl.Series("key", seeds_of(frame["id"], self.seed), dtype=pl.UInt64)
        rows = pl.DataFrame([groups.alias("group"), frame["id"], keys]).with_row_index("place")
        ranked = rows.sort("key", "id").with_columns(rank=pl.int_range(pl.len()).over("group")).sort("place")
        quota = ranked["group"].replace_strict(quotas, default=0, return_dtype=pl.Int64)
        kept = ranked["rank"] < quota
        rest = ranked.filter(~kept)
        return frame.filter(kept), drops(rest["id"], "not_in_mixture", rest["group"])

    def quotas(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """How many rows of each group stay. Raises InputError for a share of a group that has no row."""
        if absent := sorted(set(self.shares) - set(sizes)) if sizes else []:
            known = ", ".join(sorted(sizes))
            raise InputError(f"stage {self.name}: no row has {self.by} {absent[0]!r}; it is one of {known}")
        names = sorted(set(self.shares) & set(sizes) if self.shares else sizes)
        held = np.array([sizes[name] for name in names], np.float64)
        weights = np.array([self.shares[name] for name in names]) if self.shares else held ** (1 / self.temperature)
        limits = np.minimum(held, self.cap or np.inf)
        exact = int(np.floor((limits / weights).min(initial=np.inf) * weights.sum() + SLACK)) if names else 0
        all_rows = exact if self.shares or self.temperature != 1.0 else int(limits.sum())
        most = exact if self.short == "shrink" else int(limits.sum())
        counts = quotas_of(limits, weights, min(all_rows if self.count is None else self.count, most))
        return dict(zip(names, counts.tolist(), strict=True))


def quotas_of(limits: Array, weights: Array, count: int) -> Array:
    """`count` parted in proportion to `weights`, none above its limit; what a group lacks, the others have in their
    proportions. Rounded by largest remainders, equal ones in order. count: at most the sum of the limits.
    """
    full = np.zeros(len(limits), bool)
    wanted = np.zeros(len(limits))
    while not full.all():
        scale = (count - limits[full].sum()) / weights[~full].sum()
        wanted = np.where(full, limits, scale * weights)
        if not (beyond := ~full & (wanted > limits)).any():
            break
        full |= beyond
        wanted = np.where(full, limits, wanted)
    counts = np.floor(wanted + SLACK).astype(np.int64)
    order = np.argsort(-np.round(wanted - counts, 9), kind="stable")
    room = order[counts[order] < limits[order]]
    counts[room[: count - int(counts.sum())]] += 1
    return counts
