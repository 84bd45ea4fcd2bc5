"""Rows of which every other one is near: k-center by farthest-first traversal, on unit vectors.

Each step takes the row that is least like those taken before. A row's likeness to them (the largest cosine) only grows,
so one that was measured against some of them is a lower bound. A row whose bound is above what a step takes is not
looked at: most rows meet a few of the taken ones, and the product of all with all is never made. Rows that may be next
are brought up to date in blocks (a matrix product), and steps are made among them alone, while all others are surely
more alike.

Source: docs/papers.md#diversity (Gonzalez 1985; Sener and Savarese 2018).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from synthmill.tasks.cores import Array, on_all_cores

POOL = 2048  # rows among which steps are made; they stay in the processor's cache
NEAR = 32  # times as many, among which pools are looked for
BLOCK = 256  # taken rows that others are compared with at once
GROUP = 64  # rows that have met numbers of taken ones this near are compared together
EVERY = 8  # steps after which rows that cannot be next leave the pool
ROWS = 8192  # of a pass over all rows


class Centres(NamedTuple):
    """rows: those that were taken, in order. likeness: of each to those before it, cosine; -1 for the first. radius: of
    the row that would be next, so every row is at least as like one of them.
    """

    rows: Array
    likeness: Array
    radius: float


def k_center(vectors: Array, count: int) -> Centres:
    """`count` rows by farthest-first traversal, from the one that is most like the mean; of equal ones, the lower row.

    vectors: (rows, dimensions) unit vectors, float32 or float16, may be a memory map; rows of zeros are left out, so
    there may be fewer. Products are in float32, so rows whose likeness differs by less than 1e-6 may change places.
    Memory: a few bytes a row, and the taken vectors.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count is {count}; expected 1 to {len(vectors)}, the number of rows")
    with threadpool_limits(1):  # BLAS's own threads wait for each other in loops
        return Traversal(vectors, count).run()


class Traversal:
    """A traversal in progress. bound: of each row, its likeness to the first `seen` of those taken; infinite for these.
    near: rows with low bounds; limit: the lowest (bound, row) of all others.
    """

    def __init__(self, vectors: Array, count: int) -> None:
        self.vectors, self.steps = vectors, 0
        self.usable = np.concatenate([block.any(axis=1) for block in self.blocks()])
        self.count = count = min(count, int(self.usable.sum()))
        self.taken, self.likeness = np.empty(count, np.int64), np.empty(count, np.float32)
        self.centres = np.empty((count, vectors.shape[1]), np.float32)
        self.seen = np.zeros(len(vectors), np.int32)
        self.near, self.limit = np.empty(0, np.int64), (-np.inf, -1)

    def run(self) -> Centres:
        if not self.count:
            return Centres(self.taken, self.likeness, 1.0)
        mean = sum(block.sum(axis=0, dtype=np.float64) for block in self.blocks())
        first = int(np.argmax(np.where(self.usable, self.products(np.asarray(mean, np.float32)), -np.inf)))
        self.bound = self.products(self.rows_at(np.array([first]))[0])
        self.bound[~self.usable] = np.inf
        self.seen[:] = 1
        self.take(first, self.rows_at(np.array([first]))[0], -1)
        while self.steps < self.count:
            self.step_among(*self.pool())
        rows, _ = self.pool()
        return Centres(self.taken, self.likeness, float(self.bound[rows].min(initial=1)))

    def blocks(self) -> Iterator[Array]:
        return (np.asarray(self.vectors[n : n + ROWS], np.float32) for n in range(0, len(self.vectors), ROWS))

    def products(self, vector: Array) -> Array:
        return np.concatenate([block @ vector for block in self.blocks()])

    def rows_at(self, rows: Array) -> Array:
        return np.asarray(self.vectors[rows], np.float32)

    def take(self, row: int, vector: Array, likeness: float) -> None:
        self.taken[self.steps], self.centres[self.steps], self.likeness[self.steps] = row, vector, likeness
        self.bound[row] = np.inf
        self.steps += 1

    def pool(self) -> tuple[Array, tuple[float, int]]:
        """The rows with the lowest bounds, all up to date, and the lowest (bound, row) of the others."""
        while True:
            rows, following = lowest(self.bound, self.near, POOL)
            if len(rows) < POOL or self.limit < following:
                if self.limit[0] < np.inf:
                    self.near, self.limit = lowest(self.bound, None, POOL * NEAR)
                    continue
                following = self.limit
            stale = rows[self.seen[rows] < self.steps]
            if not len(stale):
                return rows, following
            self.refresh(stale, following[0])

    def refresh(self, rows: Array, most: float) -> None:
        """Compare rows with the taken ones that they have not met, until a bound is above `most`."""
        rows = rows[np.argsort(self.seen[rows], kind="stable")]
        on_all_cores(lambda first, last: self.compare(rows[first:last], most), len(rows))

    def compare(self, rows: Array, most: float) -> None:
        groups = self.seen[rows] // GROUP * GROUP
        for begin in np.unique(groups):
            open_rows = rows[groups == begin]
            vectors, bound = self.rows_at(open_rows), self.bound[open_rows]
            for start in range(int(begin), self.steps, BLOCK):
                until = min(start + BLOCK, self.steps)
                np.maximum(bound, (vectors @ self.centres[start:until].T).max(axis=1), out=bound)
                self.bound[open_rows], self.seen[open_rows] = bound, until
                stays = bound <= most
                if not stays.any():
                    break
                if not stays.all():
                    open_rows, vectors, bound = open_rows[stays], vectors[stays], bound[stays]

    def step_among(self, rows: Array, following: tuple[float, int]) -> None:
        """Steps among rows that are up to date, one at least, while the next is before `following`."""
        vectors, bound = self.rows_at(rows), self.bound[rows]
        while self.steps < self.count and len(rows):
            place = int(np.argmin(bound))
            if (bound[place], rows[place]) > following:
                break
            self.take(int(rows[place]), vectors[place], bound[place])
            np.maximum(bound, vectors @ vectors[place], out=bound)
            bound[place] = np.inf
            if self.steps % EVERY == 0:
                stays = bound <= following[0]
                if 4 * np.count_nonzero(stays) < 3 * len(rows):
                    self.bound[rows], self.seen[rows] = bound, self.steps
                    rows, vectors, bound = rows[stays], vectors[stays], bound[stays]
        self.bound[rows], self.seen[rows] = bound, self.steps


def lowest(bound: Array, among: Array | None, count: int) -> tuple[Array, tuple[float, int]]:
    """The `count` rows with the lowest bounds, in their order, of equal ones the lower row; and the lowest (bound, row)
    of the others, infinite where there is none. among: rows, in order; default: all.
    """
    values = bound if among is None else bound[among]
    if len(values) <= count:
        places, following = np.arange(len(values)), (np.inf, -1)
    else:
        limit = np.partition(values, count)[count]  # the lowest of the others, and perhaps of these, too
        equal = np.flatnonzero(values == limit)
        below = np.flatnonzero(values < limit)
        rest = count - len(below)
        places, following = np.sort(np.concatenate([below, equal[:rest]])), (float(limit), int(equal[rest]))
    if among is not None:
        places = among[places]
        following = following if following[1] < 0 else (following[0], int(among[following[1]]))
    return places, following
