"""Rows that stand for all others: facility location by stochastic, lazy greedy steps, on unit vectors.

What a set covers is the sum, over rows, of the likeness to the one of the set that is nearest (a negative cosine counts
as 0). A step looks at a random share of the rows, so large that the set is within 1 - 1/e - epsilon of the best one, in
the mean (stochastic greedy), and among these only at rows whose gain may be the largest: a gain only shrinks while the
set grows, so an earlier one is an upper bound (lazy greedy). With epsilon 0 all rows are looked at: plain greedy.

Source: docs/papers.md#diversity (Minoux 1978; Mirzasoleiman et al. 2015).
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from synthmill.tasks.cores import Array, on_all_cores

MEASURED = 512  # rows whose gains are measured at once


class Facilities(NamedTuple):
    """rows: those that were taken, in order. gains: what each added to the share that is covered, 0 to 1."""

    rows: Array
    gains: Array


def facility_location(
    vectors: Array, count: int, covered: Array | None = None, epsilon: float = 0.1, seed: int = 0
) -> Facilities:
    """`count` rows by greedy gain; of equal ones, the lower row.

    vectors: (rows, dimensions) unit vectors, float32 or float16, may be a memory map. covered: the rows whose likeness
    counts; default: all. Products: rows x covered x ln(1 / epsilon) at most, however large `count` is; memory: 8 bytes
    a row, and 512 x covered numbers.
    """
    rows = len(vectors)
    if not 1 <= count <= rows:
        raise ValueError(f"count is {count}; expected 1 to {rows}, the number of rows")
    ground = np.asarray(vectors if covered is None else vectors[covered], np.float32)
    bound, best = np.full(rows, np.inf), np.zeros(len(ground), np.float32)
    size = rows if epsilon == 0 else math.ceil(rows / count * math.log(1 / epsilon))
    draw = np.random.default_rng(seed)
    taken, gains = np.empty(count, np.int64), np.empty(count)
    with threadpool_limits(1):  # BLAS's own threads wait for each other in loops
        for step in range(count):
            looked_at = np.arange(rows) if size >= rows else np.unique(draw.integers(rows, size=size))
            taken[step], gains[step] = step_among(looked_at, vectors, ground, bound, best)
            if taken[step] < 0:  # all that were drawn are taken
                taken[step], gains[step] = step_among(np.arange(rows), vectors, ground, bound, best)
            nearest = ground @ np.asarray(vectors[taken[step]], np.float32)
            np.maximum(best, nearest, out=best)
            bound[taken[step]] = -1
    return Facilities(taken, gains / len(ground))


def step_among(rows: Array, vectors: Array, ground: Array, bound: Array, best: Array) -> tuple[int, float]:
    """The row of these with the largest gain, and that; (-1, 0) where all are taken (their bound is -1). bound is
    changed where a gain was measured.
    """
    rows = rows[bound[rows] >= 0]
    rows = rows[np.argsort(-bound[rows], kind="stable")]
    winner, most = -1, -1.0
    for start in range(0, len(rows), MEASURED):
        measured = rows[start : start + MEASURED]
        if bound[measured[0]] < most:
            break
        on_all_cores(partial(measure, measured, vectors, ground, best, bound), len(measured))
        place = int(np.lexsort((measured, -bound[measured]))[0])
        row, gain = int(measured[place]), float(bound[measured[place]])
        if gain > most or (gain == most and row < winner):
            winner, most = row, gain
    return winner, max(most, 0.0)


def measure(rows: Array, vectors: Array, ground: Array, best: Array, bound: Array, first: int, last: int) -> None:
    """Write the gains of the rows first to last of `rows` into `bound`."""
    rows = rows[first:last]
    bound[rows] = gains_of(np.asarray(vectors[rows], np.float32) @ ground.T, best)


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def gains_of(likeness, best):  # type: ignore[no-untyped-def]
    """Per row, what it adds to the best likenesses. likeness: (rows, covered) float32."""
    gains = np.zeros(len(likeness))
    for row in range(len(likeness)):
        gain = np.float32(0)
        for n in range(len(best)):
            gain += max(np.float32(0), likeness[row, n] - best[n])
        gains[row] = gain
    return gains
