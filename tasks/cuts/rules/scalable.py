"""The highest reward over the lowest of a few drawn answers, 5 by default."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field

from synthmill.tasks.cores import on_all_cores
from synthmill.tasks.cuts.cut import Places
from synthmill.tasks.cuts.draws import DrawingCut, shuffle
from synthmill.tasks.cuts.points import Pools, SevenPoints


class Scalable(DrawingCut):
    """The highest reward of all over the lowest of a few drawn ones."""

    rule: Literal["scalable"] = "scalable"
    draw: int = Field(5, ge=2, le=4096, description="the rejected answer is the lowest of so many drawn ones")

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        """Evidence: the places drawn."""
        most = min(self.draw, max(np.diff(pools.starts), default=0))
        sample = np.full((len(pools), most), -1, np.int64)
        rejected = np.full(len(pools), -1, np.int64)
        keys = self.seeds(ids)
        on_all_cores(lambda first, last: mark_drawn(*pools[:2], first, last, keys, most, sample, rejected), len(pools))
        is_drawn = sample >= 0
        local = pools.local() if pools.places is not None else None
        flat = (sample + pools.starts[:-1, None])[is_drawn]
        starts = np.append(0, np.cumsum(is_drawn.sum(axis=1)))
        samples = pa.ListArray.from_arrays(
            pa.array(starts, pa.int32()), pa.array(sample[is_drawn] if local is None else local[flat])
        )
        return Places(seven.places[:, 6:], rejected[:, None], {"drawn": samples})


@njit(nogil=True, cache=True)
def mark_drawn(rewards, starts, first, last, keys, most, samples, rejected):  # type: ignore[no-untyped-def]
    """`most` answers of each pool at random into `samples`, and the lowest of them into `rejected`."""
    for pool in range(first, last):
        pool_rewards = rewards[starts[pool] : starts[pool + 1]]
        sample = np.sort(shuffle(len(pool_rewards), min(most, len(pool_rewards)), keys, pool))
        lowest = -1
        for n in range(len(sample)):
            samples[pool, n] = sample[n]
            if lowest < 0 or pool_rewards[sample[n]] < pool_rewards[lowest]:
                lowest = sample[n]
        rejected[pool] = lowest
