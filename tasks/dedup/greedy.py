"""Which rows are kept: in order of rank, each row that is not similar to a kept row.

Connected components would be too coarse: a chain of similar texts joins texts that are not similar.

Source: docs/papers.md#dedup, "who stays".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from synthmill.schemas.errors import SynthmillError
from synthmill.schemas.recall import EXACT, Recall
from synthmill.tasks.cores import Array
from synthmill.tasks.vectors.buckets import estimate_recall
from synthmill.tasks.vectors.layouts import ExactLayout
from synthmill.tasks.vectors.links import Links, Matrix, Search, links_in

OPEN, KEPT, GONE = 0, 1, 2
FindLinks = Callable[[Array, Array], Links]
"""find(queries, alive): links from query rows to alive rows (both masks over ranks), by one similarity measure."""


class Verdicts(NamedTuple):
    """Per rank: the rank of the kept row it is a duplicate of (-1: it is kept), their similarity, and the layer."""

    duplicate_of: Array
    similarity: Array
    layer: Array


def greedy(count: int, fixed_count: int, layers: Sequence[FindLinks]) -> Verdicts:
    """Go through rows by rank: keep a row unless a layer links it to a kept row. The first `fixed_count` are always
    kept. A duplicate's verdict names its best-ranked kept neighbour, and the first layer that links the two.

    A row that its listed neighbours do not settle is searched again, among the rows that may still be kept.
    """
    verdicts = Verdicts(np.full(count, -1, np.int32), np.zeros(count), np.zeros(count, np.int8))
    state = np.zeros(count, np.int8)
    state[:fixed_count] = KEPT
    while (queries := state == OPEN).any():
        links = [layer(queries, state != GONE) for layer in layers] or [Links.none()]
        row, neighbour, similarity, more = (np.concatenate(part) for part in zip(*links, strict=True))
        layer = np.repeat(np.arange(len(links), dtype=np.int8), [len(layer_links.row) for layer_links in links])
        order = np.lexsort((layer, neighbour, row))
        unlisted = np.zeros(count, np.bool_)
        unlisted[more] = True
        settle(state, row[order], neighbour[order], similarity[order], layer[order], unlisted, *verdicts)
        if np.array_equal(queries, state == OPEN):
            raise SynthmillError(f"{int(queries.sum())} rows cannot be settled; this is a bug in how links are found")
    return verdicts


def first_alike(vectors: Array, threshold: float) -> Array:
    """Per unit vector, the first kept one before it with a cosine >= threshold, or -1 (then it is kept itself).
    vectors: (texts, dimensions) float32.
    """
    matrix = Matrix.of(vectors)

    def layer(queries: Array, alive: Array) -> Links:
        return links_in(Search(matrix, ExactLayout(matrix.rows), threshold, queries, alive))

    return greedy(matrix.rows, 0, [layer]).duplicate_of


@njit(cache=True)
def settle(state, row, neighbour, similarity, layer, unlisted, duplicate_of, similarity_to, layer_of):  # type: ignore[no-untyped-def]
    """One pass of `greedy` over links, sorted by row and neighbour; updates state and the three arrays of verdicts."""
    end = 0
    for i in range(len(state)):
        first = end
        while end < len(row) and row[end] == i:
            end += 1
        if state[i] != OPEN:
            continue
        waits = unlisted[i]
        for n in range(first, end):
            if state[neighbour[n]] == KEPT:
                state[i], duplicate_of[i] = GONE, neighbour[n]
                similarity_to[i], layer_of[i] = similarity[n], layer[n]
                break
            waits = waits or state[neighbour[n]] == OPEN
        if state[i] == OPEN and not waits:
            state[i] = KEPT


def recall_of_duplicates(pairs: tuple[Array, Array], sample: Array, verdicts: Verdicts, fixed_count: int = 0) -> Recall:
    """Of the sampled rows that are duplicates, the share that the search found; without a sample, it was exact. pairs:
    the sample's true pairs. A row is a duplicate if a kept neighbour ranks before it, unless it is always kept.
    """
    if not len(sample):
        return EXACT
    row, neighbour = pairs
    expected = np.unique(row[(neighbour < row) & (verdicts.duplicate_of[neighbour] < 0)])
    expected = np.union1d(expected, sample[verdicts.duplicate_of[sample] >= 0])
    expected = expected[expected >= fixed_count]
    return estimate_recall(expected, verdicts.duplicate_of[expected] >= 0, len(sample))
