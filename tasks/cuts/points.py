"""Places in pools of rewards: the seven points of a distribution, draws, orders. Kernels over all pools at once.

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
ALL_PAIRS = 1 << 13  # of a pool with 128 answers
GOLDEN, FIRST_MIX, SECOND_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's


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


@njit(nogil=True, cache=True)
def draw(keys, pool, number, most):  # type: ignore[no-untyped-def]
    """The n-th random number below `most` of a pool: splitmix64, by the pool's key."""
    mixed = keys[pool] + np.uint64(number + 1) * np.uint64(GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(FIRST_MIX)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(SECOND_MIX)
    return np.int64((mixed ^ (mixed >> np.uint64(31))) % np.uint64(most))


@njit(nogil=True, cache=True)
def shuffle(count, most, keys, pool):  # type: ignore[no-untyped-def]
    """`most` of the numbers below `count`, in random order."""
    order = np.arange(count)
    for n in range(most):
        swap = n + draw(keys, pool, n, count - n)
        order[n], order[swap] = order[swap], order[n]
    return order[:most]


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


@njit(nogil=True, cache=True)
def mark_other(starts, first, last, keys, chosen, rejected):  # type: ignore[no-untyped-def]
    """Any answer but the chosen one, at random."""
    for pool in range(first, last):
        count = starts[pool + 1] - starts[pool]
        if count > 1:
            place = draw(keys, pool, 0, count - 1)
            rejected[pool] = place + (place >= chosen[pool])


@njit(nogil=True, cache=True)
def mark_ordered(rewards, starts, first, last, places):  # type: ignore[no-untyped-def]
    """Places from the lowest reward to the highest into `places`, (answers,)."""
    for pool in range(first, last):
        begin, end = starts[pool], starts[pool + 1]
        places[begin:end] = np.argsort(rewards[begin:end], kind="mergesort")


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


@njit(nogil=True, cache=True)
def mark_tournament(rewards, starts, first, last, keys, chosen, rejected, rounds):  # type: ignore[no-untyped-def]
    """The winner of each pool's knock-out, and the first answer that it beat. The order is random; an odd answer gets a
    bye.
    """
    for pool in range(first, last):
        pool_rewards = rewards[starts[pool] : starts[pool + 1]]
        remaining = shuffle(len(pool_rewards), len(pool_rewards), keys, pool)
        beaten = np.full(len(pool_rewards), -1)
        while len(remaining) > 1:
            winners = np.empty((len(remaining) + 1) // 2, np.int64)
            for n in range(0, len(remaining) - 1, 2):
                winner, loser = remaining[n], remaining[n + 1]
                if pool_rewards[loser] > pool_rewards[winner] or (
                    pool_rewards[loser] == pool_rewards[winner] and loser < winner
                ):
                    winner, loser = loser, winner
                winners[n // 2] = winner
                if beaten[winner] < 0:
                    beaten[winner] = loser
            if len(remaining) % 2:
                winners[-1] = remaining[-1]
            remaining = winners
            rounds[pool] += 1
        if len(remaining):
            chosen[pool], rejected[pool] = remaining[0], beaten[remaining[0]]
