"""Who stays: rows by rank, each one unless a row that stays is alike.

Not whole connected components: a chain of likenesses joins texts that are nothing alike.

Source: docs/papers.md#dedup, "who stays".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from schemas.errors import SynthmillError
from schemas.recall import EXACT, Recall
from tasks.cores import Array
from tasks.vectors.buckets import estimated
from tasks.vectors.links import Everything, Links, Matrix, Search, links_in

OPEN, KEPT, GONE = 0, 1, 2
Layer = Callable[[Array, Array], Links]
"""Links of the rows asked for among those alive (masks over ranks), by one measure of likeness."""


class Verdicts(NamedTuple):
    """Per rank: the rank of the row that stands for it (-1: it stays itself), their similarity, and by which layer."""

    other: Array
    similarity: Array
    layer: Array


def greedy(count: int, fixed: int, layers: Sequence[Layer]) -> Verdicts:
    """Go through rows by rank: one stays unless a row that stays is alike by some layer. The first `fixed` stay
    whatever they are like. The verdict names the best-ranked of those that stay, and the first layer that links them.

    A row whose listed neighbours do not settle it is looked for again among the rows that are left.
    """
    verdicts = Verdicts(np.full(count, -1, np.int32), np.zeros(count), np.zeros(count, np.int8))
    state = np.zeros(count, np.int8)
    state[:fixed] = KEPT
    while (asked := state == OPEN).any():
        found = [layer(asked, state != GONE) for layer in layers] or [Links.none()]
        row, other, similarity, more = (np.concatenate(part) for part in zip(*found, strict=True))
        layer = np.repeat(np.arange(len(found), dtype=np.int8), [len(one.row) for one in found])
        order = np.lexsort((layer, other, row))
        unlisted = np.zeros(count, np.bool_)
        unlisted[more] = True
        settle(state, row[order], other[order], similarity[order], layer[order], unlisted, *verdicts)
        if np.array_equal(asked, state == OPEN):
            raise SynthmillError(f"{int(asked.sum())} rows cannot be settled; this is a bug in how links are found")
    return verdicts


def first_alike(vectors: Array, threshold: float) -> Array:
    """Per unit vector, the first one before it that stays and has a cosine >= threshold with it, or -1 (then it stays
    itself). vectors: (texts, dimensions) float32.
    """
    matrix = Matrix.of(vectors)

    def layer(asked: Array, alive: Array) -> Links:
        return links_in(Search(matrix, Everything(matrix.rows), threshold, asked, alive))

    return greedy(matrix.rows, 0, [layer]).other


@njit(cache=True)
def settle(state, row, other, similarity, layer, unlisted, stands, alike, through):  # type: ignore[no-untyped-def]
    """One pass of `greedy` over links in order of row and neighbour."""
    at = 0
    for i in range(len(state)):
        first = at
        while at < len(row) and row[at] == i:
            at += 1
        if state[i] != OPEN:
            continue
        waits = unlisted[i]
        for n in range(first, at):
            if state[other[n]] == KEPT:
                state[i], stands[i], alike[i], through[i] = GONE, other[n], similarity[n], layer[n]
                break
            waits = waits or state[other[n]] == OPEN
        if state[i] == OPEN and not waits:
            state[i] = KEPT


def duplicates_found(pairs: tuple[Array, Array], sample: Array, verdicts: Verdicts, fixed: int = 0) -> Recall:
    """Of the sampled rows that should have gone, the share that did; without a sample, the search was exact. pairs:
    their true neighbours. A row should have gone if a neighbour that ranks before it stays, but for the first `fixed`.
    """
    if not len(sample):
        return EXACT
    one, other = pairs
    should = np.unique(one[(other < one) & (verdicts.other[other] < 0)])
    should = np.union1d(should, sample[verdicts.other[sample] >= 0])
    should = should[should >= fixed]
    return estimated(should, verdicts.other[should] >= 0, len(sample))
