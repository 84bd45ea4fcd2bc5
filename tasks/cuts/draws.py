"""What rules draw at random: by the prompt's id and a seed, so that one prompt more changes no other's.

A change here moves what stored pairs have drawn. Kernels of other files keep their compiled copies of these functions
until they change themselves.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
from numba import njit
from pydantic import Field

from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.cut import CutSettings

GOLDEN, FIRST_MIX, SECOND_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's


class DrawingCut(CutSettings):
    """A rule that draws."""

    seed: int = Field(0, ge=0, lt=1 << 63, description="of what is drawn")

    def seeds(self, ids: Any) -> Array:
        """The seed of each pool's draws, (pools,) uint64."""
        return seeds_of(ids.to_pylist(), self.seed)


def seeds_of(ids: Iterable[str], seed: int) -> Array:
    """A hash of each id, under a seed. (ids,) uint64."""
    salt = seed.to_bytes(8, "little")
    hashes = (blake2b(row_id.encode(), digest_size=8, key=salt) for row_id in ids)
    return np.frombuffer(b"".join(each.digest() for each in hashes), np.uint64)


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
