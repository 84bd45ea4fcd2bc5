"""Different pairs of unequal rewards, at random."""

from typing import Any, Literal

import numpy as np
from numba import njit
from pydantic import Field

from synthmill.tasks.cores import on_all_cores
from synthmill.tasks.cuts.cut import Places
from synthmill.tasks.cuts.draws import DrawingCut, draw, shuffle
from synthmill.tasks.cuts.points import Pools, SevenPoints

ALL_PAIRS = 1 << 13  # of a pool with 128 answers


class RandomPairs(DrawingCut):
    """Different pairs of unequal rewards, at random."""

    rule: Literal["random-pairs"] = "random-pairs"
    count: int = Field(1, ge=1, le=4096, description="the most pairs of a prompt")

    @property
    def pairs_per_pool(self) -> int:
        return self.count

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        largest = int(max(np.diff(pools.starts), default=0))
        shape = (len(pools), min(self.count, largest * (largest - 1) // 2))
        chosen, rejected = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        keys = self.seeds(ids)
        on_all_cores(lambda first, last: mark_pairs(*pools[:2], first, last, keys, chosen, rejected), len(pools))
        return Places(chosen, rejected, {})


@njit(nogil=True, cache=True)
def mark_pairs(rewards, starts, first, last, keys, chosen, rejected):  # type: ignore[no-untyped-def]
    """Different pairs of each pool at random, as many as `chosen` and `rejected` have columns; the higher is chosen."""
    for pool in range(first, last):
        pool_rewards = rewards[starts[pool] : starts[pool + 1]]
        count = len(pool_rewards)
        every = count * (count - 1) // 2
        most, kept, seen_pairs = chosen.shape[1], 0, set([np.int64(-1)])
        few = every <= ALL_PAIRS  # shuffle all pairs then; else draw pairs, and draw again where one was there
        order = shuffle(every, every, keys, pool) if few else np.zeros(0, np.int64)
        for number in range(every if few else 8 * ALL_PAIRS + 8 * most):
            if kept == most:
                break
            pair = order[number] if few else draw(keys, pool, number, every)
            if not few:
                if pair in seen_pairs:
                    continue
                seen_pairs.add(pair)
            upper = np.int64((1 + np.sqrt(1 + 8 * pair)) / 2)
            while upper * (upper - 1) // 2 > pair:
                upper -= 1
            while upper * (upper + 1) // 2 <= pair:
                upper += 1
            lower = pair - upper * (upper - 1) // 2
            if pool_rewards[upper] != pool_rewards[lower]:
                better = upper if pool_rewards[upper] > pool_rewards[lower] else lower
                chosen[pool, kept], rejected[pool, kept] = better, upper + lower - better
                kept += 1
