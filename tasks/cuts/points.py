"""Places in pools of rewards: the seven points of a distribution, orders. Kernels over all pools at once.

Pools are rewards one after the other, (answers,) float64, and where each pool starts, (pools + 1,) int64. A place is an
answer's number in its own pool, counted from 0; -1 stands where a pool has none. The lowest place wins every tie.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cores import Array, on_all_cores

POINTS = ("min", "mu-2s", "mu-s", "mu", "mu+s", "mu+2s", "max")
TINY, HUGE = 1e-300, 1e300
SLACK = 2.0**-50  # of the largest reward: distances that differ by less differ by rounding only, and are ties


class Pools(NamedTuple):
    """Rewards of many pools. places: where each answer stands in its pool, if some were left out before."""

    rewards: Array
    starts: Array
    places: Array | None = None

    @classmethod
    def of(cls, column: Any) -> Self:
        """Of a column of lists of numbers; a null is NaN, and a pool that is null has no answers."""
        lists = in_one(column) if isinstance(column, pa.ChunkedArray) else column
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), out=starts[1:])
        return cls(lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False), starts)

    def only(self, usable: Array) -> "Pools":
        """Without the answers where `usable`, (answers,) bool, is false."""
        before = np.append(0, np.cumsum(usable))
        return Pools(self.rewards[usable], before[self.starts], self.local()[usable])

    def local(self) -> Array:
        """Per answer, its place in its whole pool."""
        if self.places is not None:
            return self.places
        places: Array = np.arange(len(self.rewards)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        return places

    def __len__(self) -> int:
        return len(self.starts) - 1


class SevenPoints(NamedTuple):
    """places: (pools, 7) int32, in the order of POINTS; mean, std, skewness: (pools,) float64. Without an answer, or
    with a reward that is no finite number: -1 and NaN; equal rewards have no skewness (NaN).
    """

    places: Array
    mean: Array
    std: Array
    skewness: Array


def seven_points(pools: Pools, ddof: int = 0) -> SevenPoints:
    """Of each pool, the answers nearest to its minimum, its mean with -2 to 2 standard deviations, and its maximum.

    Source: docs/papers.md#sweet-spot.
    """
    count = len(pools)
    points = SevenPoints(np.full((count, 7), -1, np.int32), *(np.full(count, np.nan) for _ in range(3)))
    on_all_cores(lambda first, last: mark_seven(*pools[:2], first, last, ddof, *points), count)
    return points


@njit(nogil=True, cache=True)
def mark_seven(rewards, starts, first, last, ddof, places, means, stds, skews):  # type: ignore[no-untyped-def]
    """`seven_points` of the pools first to last."""
    for pool in range(first, last):
        pool_rewards = rewards[starts[pool] : starts[pool + 1]]
        count = len(pool_rewards)
        if count == 0:
            continue
        finite, low, high = True, 0, 0
        for n in range(count):
            finite &= np.isfinite(pool_rewards[n])
            if pool_rewards[n] < pool_rewards[low]:
                low = n
            if pool_rewards[n] > pool_rewards[high]:
                high = n
        if not finite:
            continue
        places[pool, 0], places[pool, 6] = low, high
        least, span = pool_rewards[low], pool_rewards[high] - pool_rewards[low]
        if span < TINY or span > HUGE:  # equal, or beyond what can be reckoned with
            means[pool], stds[pool] = least, 0.0
            places[pool, 1:6] = low
            continue
        scale = 1 / span
        mean = 0.0
        for n in range(count):  # from here on from 0 to 1, so that no size of rewards under- or overflows
            mean += (pool_rewards[n] - least) * scale
        mean /= count
        squares, cubes = 0.0, 0.0
        for n in range(count):
            away = (pool_rewards[n] - least) * scale - mean
            squares += away * away
            cubes += away * away * away
        std = np.sqrt(squares / (count - ddof))
        means[pool], stds[pool] = least + mean * span, std * span
        skews[pool] = cubes / count / (squares / count) ** 1.5
        slack = SLACK * (1 + max(abs(least), abs(pool_rewards[high])) / span)
        for point in range(1, 6):
            target = mean + (point - 3) * std
            nearest, best = abs((pool_rewards[0] - least) * scale - target), 0
            for n in range(1, count):
                distance = abs((pool_rewards[n] - least) * scale - target)
                if distance < nearest - slack:
                    nearest, best = distance, n
            places[pool, point] = best


def ordered(pools: Pools, *, ascending: bool = True) -> Array:
    """Places from the lowest reward to the highest, or the other way, pool by pool, (answers,)."""
    places = np.empty(len(pools.rewards), np.int64)
    rewards = pools.rewards if ascending else -pools.rewards
    on_all_cores(lambda first, last: mark_ordered(rewards, pools.starts, first, last, places), len(pools))
    return places


@njit(nogil=True, cache=True)
def mark_ordered(rewards, starts, first, last, places):  # type: ignore[no-untyped-def]
    """Places from the lowest reward to the highest into `places`, (answers,)."""
    for pool in range(first, last):
        begin, end = starts[pool], starts[pool + 1]
        places[begin:end] = np.argsort(rewards[begin:end], kind="mergesort")
