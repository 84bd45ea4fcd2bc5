"""An answer that passed over one that failed, of lengths as near as there are if asked for.

A missing score is neither: such an answer takes no part. Source: docs/papers.md#verified-pairs.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.cut import KEPT, NO_FAIL, NO_PASS, Places
from synthmill.tasks.cuts.draws import DrawingCut
from synthmill.tasks.cuts.points import Pools, SevenPoints


class PassOverFail(DrawingCut):
    """An answer that passed over one that failed, each in one pair only. Evidence: the share of answers that passed."""

    missing_rewards: ClassVar = "leave_out"

    rule: Literal["pass-over-fail"] = "pass-over-fail"
    passing: float = Field(1.0, description="the least score that passes")
    matched: bool = Field(False, description="pair the answers whose lengths (characters) are nearest, not drawn ones")
    count: int = Field(1, ge=1, le=4096, description="the most pairs of a prompt")

    @property
    def pairs_per_pool(self) -> int:
        return self.count

    def places_in(self, table: pa.Table, pools: Pools, seven: SevenPoints) -> Places:
        """A pool's pairs of a pass and a fail, at most `count`."""
        passed = pools.rewards >= self.passing
        lengths = lengths_in(table, pools) if self.matched else None
        most = min(self.count, int(max(np.diff(pools.starts), default=0)))
        chosen, rejected = (np.full((len(pools), most), -1, np.int64) for _ in range(2))
        rates, reasons = np.full(len(pools), np.nan), np.full(len(pools), KEPT, np.int8)
        seeds = self.seeds(table["prompt_id"])
        for pool in np.flatnonzero(np.diff(pools.starts)):
            own = slice(pools.starts[pool], pools.starts[pool + 1])
            rates[pool] = passed[own].mean()
            reasons[pool] = self.reason(rates[pool])
            if reasons[pool] == KEPT:
                passes, fails = np.flatnonzero(passed[own]), np.flatnonzero(~passed[own])
                pairs = drawn(passes, fails, seeds[pool]) if lengths is None else nearest(passes, fails, lengths[own])
                for number, (good, bad) in enumerate(pairs[:most]):
                    chosen[pool, number], rejected[pool, number] = good, bad
        return Places(chosen, rejected, {"pass_rate": rates}, reasons)

    def reason(self, rate: float) -> int:
        """Why a pool with this share of passes has no pair; KEPT where it has."""
        return NO_PASS if rate == 0 else NO_FAIL if rate == 1 else KEPT


def lengths_in(table: pa.Table, pools: Pools) -> Array:
    """The characters of each answer that takes part."""
    starts = Pools.of(table["rewards"]).starts
    rows = np.repeat(starts[:-1], np.diff(pools.starts)) + pools.local()
    lengths = pc.utf8_length(in_one(table["answers"]).flatten()).to_numpy(zero_copy_only=False)
    taking_part: Array = np.asarray(lengths, np.float64)[rows]
    return taking_part


def drawn(passes: Array, fails: Array, seed: Any) -> list[tuple[int, int]]:
    """Passes and fails at random, each once."""
    random = np.random.default_rng(int(seed))
    return list(zip(random.permutation(passes).tolist(), random.permutation(fails).tolist(), strict=False))


def nearest(passes: Array, fails: Array, lengths: Array) -> list[tuple[int, int]]:
    """The pair whose lengths have the smallest ratio, then the next of the rest; of equal ones the lowest places."""
    logs = np.log1p(lengths)
    gaps = np.abs(logs[passes][:, None] - logs[fails][None, :])
    pairs, free = [], (np.ones(len(passes), bool), np.ones(len(fails), bool))
    for flat in np.argsort(gaps, axis=None, kind="stable"):
        good, bad = divmod(int(flat), len(fails))
        if free[0][good] and free[1][bad]:
            free[0][good] = free[1][bad] = False
            pairs.append((int(passes[good]), int(fails[bad])))
    return pairs
