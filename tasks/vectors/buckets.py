"""Buckets for a search of many vectors, as wide as a recall that is asked for needs; and the recall they have.

A bucket holds the rows whose nearest centroid is its own; a row also visits every bucket whose centroid is nearly as
near. Two rows are compared where both live, or where one visits the other. How near is near enough is measured: a
random sample of rows is compared with all rows; what a part of their true neighbours would have needed decides, and the
others tell the recall.

Source: docs/papers.md#dedup, layer 3.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from schemas.recall import EXACT, Recall
from tasks.cores import Array, threads
from tasks.vectors.links import SLACK, TILE, Buckets, Everything, Helpers, Layout, Matrix, alike, by_blocks, pieces

EXACT_UP_TO = 30_000  # rows: some three seconds
WIDEST = 32  # buckets a row may visit
USUAL = 0.1  # how far a visited centroid may be behind the nearest, where the sample has too few pairs to say
FEWEST_PAIRS, MOST_PAIRS = 20, 50_000
TUNED_BY = 1 / 3  # of the sample; the others estimate
TAIL, IMAGINED = 0.2, 0.03  # of the sampled pairs; what an imagined one needs beyond the others
POINTS, ITERATIONS = 32, 5  # k-means: rows per centroid, rounds
SEEN_PER_BLOCK = 8  # neighbours of a sampled row in one block of rows


class Plan(NamedTuple):
    """A layout, its recall, and the true pairs (row, neighbour) of `sample` that told it."""

    layout: Layout
    recall: Recall
    pairs: tuple[Array, Array]
    sample: Array
    visits: float


def lay_out(
    matrix: Matrix,
    threshold: float,
    recall: float,
    sample: int,
    seed: int,
    exact_up_to: int = EXACT_UP_TO,
    helpers: Helpers | None = None,
) -> Plan:
    """How to search so many rows: exactly, or in buckets that find a share `recall` of the pairs. sample: how many rows
    are compared with all others to know.
    """
    none = np.zeros(0, np.int32)
    if matrix.rows <= exact_up_to or recall >= 1:
        return Plan(Everything(matrix.rows), EXACT, (none, none), none, 0.0)
    draw = np.random.default_rng(seed)
    centroids = k_means(matrix, max(2, int((1.5 * matrix.rows) ** 0.5)), draw)
    rows = np.sort(draw.choice(matrix.rows, min(sample, matrix.rows), replace=False)).astype(np.int32)
    one, other = true_pairs(matrix, rows, threshold, helpers)
    if len(one) > MOST_PAIRS:
        some = np.sort(draw.choice(len(one), MOST_PAIRS, replace=False))
        one, other = one[some], other[some]
    needed = width_needed(matrix, centroids, one, other)
    tuning = draw.random(len(rows)) < TUNED_BY
    tunes = tuning[np.searchsorted(rows, one)]
    width = chosen_width(needed[tunes], recall)
    layout, visits = assigned(matrix, centroids, width, helpers)
    told = estimated(one[~tunes], needed[~tunes] <= width, int((~tuning).sum()))
    return Plan(layout, told, (one[~tunes], other[~tunes]), rows[~tuning], visits)


def k_means(matrix: Matrix, count: int, draw: np.random.Generator) -> Array:
    """(count, dimensions) float32 unit centroids of a sample of the rows."""
    import faiss

    faiss.omp_set_num_threads(threads())
    some = np.sort(draw.choice(matrix.rows, min(matrix.rows, count * POINTS), replace=False))
    settings = {"niter": ITERATIONS, "seed": int(draw.integers(1 << 30)), "spherical": True}
    bounds = {"min_points_per_centroid": 1, "max_points_per_centroid": POINTS}
    kmeans = faiss.Kmeans(matrix.vectors.shape[1], count, **settings, **bounds)
    kmeans.train(matrix.take(some))
    return np.asarray(kmeans.centroids)


def true_pairs(matrix: Matrix, sample: Array, threshold: float, helpers: Helpers | None) -> tuple[Array, Array]:
    """(sampled row, neighbour): all neighbours of these rows, or SEEN_PER_BLOCK and some more in a block of rows."""
    one, other = by_blocks(matrix, neighbours_in, sample, threshold, helpers=helpers)
    good = matrix.measured(one, other) >= threshold
    order = np.lexsort((other[good], one[good]))
    return one[good][order], other[good][order]


def neighbours_in(matrix: Matrix, block: Array, sample: Array, threshold: float) -> tuple[Array, Array]:
    vectors = matrix.take(block)
    one, other = [], []
    for some in pieces(sample):
        left, right = alike(matrix, some, block, vectors, threshold - SLACK, False, SEEN_PER_BLOCK)
        one.append(some[left])
        other.append(block[right])
    return np.concatenate(one), np.concatenate(other)


def width_needed(matrix: Matrix, centroids: Array, one: Array, other: Array) -> Array:
    """Per pair, how far behind its own centroid a row must look to meet the other, where that is the less; infinite
    where more than WIDEST centroids are nearer for both.
    """
    found = np.empty(len(one))
    for start in range(0, len(one), TILE):
        some = slice(start, start + TILE)
        products = [matrix.take(rows[some]) @ centroids.T for rows in (one, other)]
        homes = [product.argmax(axis=1)[:, None] for product in products]
        width = np.full(len(products[0]), np.inf)
        for product, home in zip(products, reversed(homes), strict=True):
            there = np.take_along_axis(product, home, 1)
            near_enough = (product > there).sum(axis=1) <= WIDEST
            width = np.minimum(width, np.where(near_enough, product.max(axis=1) - there[:, 0], np.inf))
        found[some] = width
    return found


def chosen_width(needed: Array, recall: float) -> float:
    """The width at which all but half of what may be missed of such pairs is found. Few pairs say little about rare
    ones: the widest fifth of them is taken for an exponential tail, and one more pair is imagined in it.
    """
    finite = needed[np.isfinite(needed)]
    if len(finite) < FEWEST_PAIRS:
        return USUAL
    start = float(np.quantile(finite, 1 - TAIL))
    beyond = np.append(finite[finite > start] - start, IMAGINED)
    mean = float(beyond.mean()) * (1 + len(beyond) ** -0.5)
    share = len(beyond) / (len(finite) + 1)
    wanted = start + mean * np.log(max(1.0, share / ((1 - recall) / 2)))
    return float(max(wanted, np.quantile(finite, (1 + recall) / 2)))


def assigned(matrix: Matrix, centroids: Array, width: float, helpers: Helpers | None) -> tuple[Buckets, float]:
    """Every row to its nearest centroid, and to visit those at most `width` behind it; and visits per row."""
    homes, visitors, visited = by_blocks(matrix, homes_of, centroids, width, helpers=helpers)
    places = np.arange(len(centroids) + 1)
    order, visiting = np.argsort(homes, kind="stable"), np.argsort(visited, kind="stable")
    layout = Buckets(
        np.searchsorted(homes[order], places),
        order.astype(np.int32),
        np.searchsorted(visited[visiting], places),
        visitors[visiting],
    )
    return layout, len(visitors) / matrix.rows


def homes_of(matrix: Matrix, block: Array, centroids: Array, width: float) -> tuple[Array, Array, Array]:
    homes, visits = np.empty(len(block), np.int32), np.zeros(len(block), np.int32)
    visited = np.empty((len(block), WIDEST), np.int32)
    choose(matrix.take(block) @ centroids.T, width, homes, visited, visits)
    return homes, np.repeat(block, visits), visited[np.arange(WIDEST) < visits[:, None]]


@njit(nogil=True, cache=True)
def choose(product, width, homes, visited, visits):  # type: ignore[no-untyped-def]
    """Per row the best centroid, and the up to WIDEST next ones within `width` of it, the nearest first."""
    most = visited.shape[1]
    for i in range(product.shape[0]):
        best = 0
        for j in range(product.shape[1]):
            if product[i, j] > product[i, best]:
                best = j
        homes[i] = best
        least = product[i, best] - width
        count = 0
        for j in range(product.shape[1]):
            if j == best or product[i, j] < least:
                continue
            at = count
            while at > 0 and product[i, visited[i, at - 1]] < product[i, j]:
                at -= 1
            if at < most:
                for n in range(min(count, most - 1), at, -1):
                    visited[i, n] = visited[i, n - 1]
                visited[i, at] = j
                count = min(count + 1, most)
        visits[i] = count


def estimated(of: Array, found: Array, rows: int) -> Recall:
    """A share of pairs by sampled row, and whether each was found, out of so many sampled rows. The pairs of one row
    stand or fall together: they count for as many as Kish's effective size says; the interval is Wilson's.
    """
    if not len(of):
        return Recall(0.0, 0.0, 1.0, 0, rows)
    per_row = np.unique(of, return_counts=True)[1].astype(np.float64)
    size = per_row.sum() ** 2 / (per_row**2).sum()
    share, z = float(found.mean()), 1.959964
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * (share * (1 - share) / size + z * z / (4 * size * size)) ** 0.5
    return Recall(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), len(of), rows)
