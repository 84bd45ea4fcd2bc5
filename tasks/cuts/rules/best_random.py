"""The highest reward over any other answer."""

from typing import Any, Literal

import numpy as np
from numba import njit

from synthmill.tasks.cores import on_all_cores
from synthmill.tasks.cuts.cut import Places
from synthmill.tasks.cuts.draws import DrawingCut, draw
from synthmill.tasks.cuts.points import Pools, SevenPoints


class BestRandom(DrawingCut):
    """The highest reward over any other answer."""

    rule: Literal["best-random"] = "best-random"

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        rejected = np.full(len(pools), -1, np.int64)
        keys, chosen = self.seeds(ids), seven.places[:, 6]
        on_all_cores(lambda first, last: mark_other(pools.starts, first, last, keys, chosen, rejected), len(pools))
        return Places(seven.places[:, 6:], rejected[:, None], {})


@njit(nogil=True, cache=True)
def mark_other(starts, first, last, keys, chosen, rejected):  # type: ignore[no-untyped-def]
    """Any answer but the chosen one, at random."""
    for pool in range(first, last):
        count = starts[pool + 1] - starts[pool]
        if count > 1:
            place = draw(keys, pool, 0, count - 1)
            rejected[pool] = place + (place >= chosen[pool])
