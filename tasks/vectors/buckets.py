"""Buckets for a search of many vectors, just wide enough for the requested recall, and an estimate of their recall.

A bucket holds the rows whose nearest centroid is its own; a row also visits every bucket whose centroid is nearly as
near. Two rows are compared if they share a bucket, or if one visits the other's. The width of "nearly" is measured: a
random sample of rows is compared with all rows; one part of the sample's true pairs sets the width, the rest estimates
the recall.

Source: docs/papers.md#dedup, layer 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from synthmill.schemas.recall import EXACT, Recall
from synthmill.tasks.cores import Array, threads
from synthmill.tasks.vectors.layouts import TILE, Buckets, ExactLayout, Layout, tiles_of_rows
from synthmill.tasks.vectors.links import SLACK, Matrix, Near, SpreadContext, find_alike, map_blocks
from synthmill.tasks.vectors.short import shortened

EXACT_UP_TO = 30_000  # rows: some three seconds
DEFAULT_WIDTH = 0.1  # where the sample has too few pairs; a visited centroid's cosine may be so much lower
MOST_VISITS = 32  # buckets a row may visit
ROWS_PER_CENTROID, ITERATIONS = 32, 5  # of k-means
FEWEST_PAIRS, MOST_PAIRS = 20, 50_000
PROBED = 2000  # rows that estimate how many pairs are compared
PAIR_COST = 0.8  # of comparing two rows that share a bucket, in products of a row with a centroid
FEWEST_ROWS = 8  # of which a bucket is made
TUNED_BY = 1 / 3  # of the sample sets the width; the rest estimates the recall
TAIL, IMAGINED = 0.2, 0.03  # the tail's share of the sampled pairs; how far into it the imagined pair lies
LISTED_PER_BLOCK = 8  # neighbours of a sampled row in one block of rows


class SearchPlan(NamedTuple):
    """A layout, its estimated recall, the true pairs (row, neighbour) of `sample` that the estimate is from, visits per
    row, and what the search compares first.
    """

    layout: Layout
    recall: Recall
    pairs: tuple[Array, Array]
    sample: Array
    visits: float
    near: Near | None = None


def lay_out(
    matrix: Matrix,
    threshold: float,
    recall: float,
    sample: int,
    seed: int,
    exact_up_to: int = EXACT_UP_TO,
    workers: SpreadContext | None = None,
    fixed: int = 0,
) -> SearchPlan:
    """How to search a matrix: exactly, or in buckets that find a share `recall` of the pairs. sample: how many rows are
    compared with all others to estimate it. fixed: so many of the first rows are known, and only the others are looked
    for: no two known rows are compared, centroids and sample are of the others, and the recall is theirs.
    """
    empty = np.zeros(0, np.int32)
    pairs = (matrix.rows**2 - fixed**2) // 2
    if pairs <= max(exact_up_to**2 // 2, sample * fixed) or recall >= 1:  # the sample alone would take as long
        return SearchPlan(ExactLayout(matrix.rows), EXACT, (empty, empty), empty, 0.0)
    draw = np.random.default_rng(seed)
    others = matrix.rows - fixed
    near = shortened(matrix, threshold, workers) or Near(matrix, threshold - SLACK, LISTED_PER_BLOCK)
    sampled = np.sort(draw.choice(others, min(sample, others), replace=False)).astype(np.int32) + np.int32(fixed)
    row, neighbour = true_pairs(matrix, near, sampled, threshold, workers)
    if len(row) > MOST_PAIRS:
        chosen = np.sort(draw.choice(len(row), MOST_PAIRS, replace=False))
        row, neighbour = row[chosen], neighbour[chosen]
    tuning = draw.random(len(sampled)) < TUNED_BY
    tunes_width = tuning[np.searchsorted(sampled, row)]
    division = divide(matrix, (row[tunes_width], neighbour[tunes_width]), recall, fixed, draw)
    layout, visits = assign_buckets(matrix, division.centroids, division.width, workers)
    row, neighbour = row[~tunes_width], neighbour[~tunes_width]
    is_found = needed_widths(matrix, division.centroids, row, neighbour) <= division.width
    estimate = estimate_recall(row, is_found, int((~tuning).sum()))
    return SearchPlan(layout, estimate, (row, neighbour), sampled[~tuning], visits, near)


class Division(NamedTuple):
    """Centroids, (count, dimensions) float32, and how much further away the ones are that a row visits. assigning,
    comparing: the work of either, in products of whole vectors.
    """

    centroids: Array
    width: float
    assigning: float
    comparing: float


def divide(
    matrix: Matrix, pairs: tuple[Array, Array], recall: float, fixed: int, draw: np.random.Generator
) -> Division:
    """As many centroids as make the least work: twice as many as long as that saves some. pairs: true ones."""
    others = matrix.rows - fixed
    comparisons = (matrix.rows**2 - fixed**2) / 2
    probes = [draw.integers(first, matrix.rows, PROBED) for first in (0, fixed)]
    count, best = max(2, int((3 * comparisons / matrix.rows) ** 0.5)), None
    while best is None or (best.comparing > 2 * best.assigning and count * FEWEST_ROWS <= others):
        centroids = k_means(matrix, count, draw, fixed)
        width = choose_width(needed_widths(matrix, centroids, *pairs), recall)
        comparing = PAIR_COST * comparisons * share_compared(matrix, centroids, width, probes)
        division = Division(centroids, width, float(matrix.rows) * count, comparing)
        if best and division.assigning + comparing >= best.assigning + best.comparing:
            break
        count, best = 2 * count, division
    return best


def share_compared(matrix: Matrix, centroids: Array, width: float, probes: Sequence[Array]) -> float:
    """The chance that a row of the first probe is compared with one of the second."""
    shares = []
    for probe in probes:
        _, homes, _, visited = assign_block(matrix, probe, centroids, width)
        shares += [np.bincount(buckets, minlength=len(centroids)) / len(probe) for buckets in (homes, visited)]
    live, visit, other_live, other_visit = shares
    return float((live * other_live + visit * other_live + live * other_visit).sum())


def k_means(matrix: Matrix, count: int, draw: np.random.Generator, fixed: int = 0) -> Array:
    """(count, dimensions) float32 unit centroids of a sample of the rows behind the first `fixed` ones."""
    import faiss

    faiss.omp_set_num_threads(threads())
    others = matrix.rows - fixed
    sample = np.sort(draw.choice(others, min(others, count * ROWS_PER_CENTROID), replace=False)) + fixed
    settings = {"niter": ITERATIONS, "seed": int(draw.integers(1 << 30)), "spherical": True}
    bounds = {"min_points_per_centroid": 1, "max_points_per_centroid": ROWS_PER_CENTROID}
    kmeans = faiss.Kmeans(matrix.vectors.shape[1], count, **settings, **bounds)
    kmeans.train(matrix.take(sample))
    return np.asarray(kmeans.centroids)


def true_pairs(
    matrix: Matrix, near: Near, sample: Array, threshold: float, workers: SpreadContext | None
) -> tuple[Array, Array]:
    """(sampled row, neighbour): all neighbours of these rows, or those among the first `near.listed` of a block."""
    row, neighbour = map_blocks(near.matrix, find_neighbours, sample, near.lowest, near.listed, workers=workers)
    is_near = matrix.similarities(row, neighbour) >= threshold
    row, neighbour = row[is_near], neighbour[is_near]
    order = np.lexsort((neighbour, row))
    return row[order], neighbour[order]


def find_neighbours(matrix: Matrix, block: Array, sample: Array, lowest: float, listed: int) -> tuple[Array, Array]:
    vectors = matrix.take(block)
    rows, neighbours = [], []
    for piece in tiles_of_rows(sample):
        left, right = find_alike(matrix, piece, block, vectors, lowest, False, listed)
        rows.append(piece[left])
        neighbours.append(block[right])
    return np.concatenate(rows), np.concatenate(neighbours)


def needed_widths(matrix: Matrix, centroids: Array, first: Array, second: Array) -> Array:
    """Per pair, the least width at which one of the two rows visits the other's bucket; infinite where both rows have
    more than MOST_VISITS nearer centroids.
    """
    widths = np.empty(len(first))
    for start in range(0, len(first), TILE):
        span = slice(start, start + TILE)
        products = [matrix.take(rows[span]) @ centroids.T for rows in (first, second)]
        homes = [product.argmax(axis=1)[:, None] for product in products]
        width = np.full(len(products[0]), np.inf)
        for product, home in zip(products, reversed(homes), strict=True):
            home_product = np.take_along_axis(product, home, 1)
            near_enough = (product > home_product).sum(axis=1) <= MOST_VISITS
            width = np.minimum(width, np.where(near_enough, product.max(axis=1) - home_product[:, 0], np.inf))
        widths[span] = width
    return widths


def choose_width(widths: Array, recall: float) -> float:
    """The width at which the pairs missed are half of what `recall` allows. A sample has few of the rare wide pairs, so
    the widest fifth is modelled as an exponential tail, with one more pair imagined in it.
    """
    finite = widths[np.isfinite(widths)]
    if len(finite) < FEWEST_PAIRS:
        return DEFAULT_WIDTH
    start = float(np.quantile(finite, 1 - TAIL))
    beyond = np.append(finite[finite > start] - start, IMAGINED)
    mean = float(beyond.mean()) * (1 + len(beyond) ** -0.5)
    share = len(beyond) / (len(finite) + 1)
    tail_width = start + mean * np.log(max(1.0, share / ((1 - recall) / 2)))
    return float(max(tail_width, np.quantile(finite, (1 + recall) / 2)))


def assign_buckets(
    matrix: Matrix, centroids: Array, width: float, workers: SpreadContext | None
) -> tuple[Buckets, float]:
    """(layout, visits per row): each row lives at its nearest centroid and visits those at most `width` behind it."""
    ranks, homes, visitors, visited = map_blocks(matrix, assign_block, centroids, width, workers=workers)
    by_rank = np.argsort(visitors, kind="stable")
    layout = Buckets.of(len(centroids), homes[np.argsort(ranks)], visitors[by_rank], visited[by_rank])
    return layout, len(visitors) / matrix.rows


def assign_block(matrix: Matrix, block: Array, centroids: Array, width: float) -> tuple[Array, Array, Array, Array]:
    """(ranks, homes, visitors, visited)"""
    homes, visits = np.empty(len(block), np.int32), np.zeros(len(block), np.int32)
    visited = np.empty((len(block), MOST_VISITS), np.int32)
    choose_centroids(matrix.take(block) @ centroids.T, width, homes, visited, visits)
    return block, homes, np.repeat(block, visits), visited[np.arange(MOST_VISITS) < visits[:, None]]


@njit(nogil=True, cache=True)
def choose_centroids(product, width, homes, visited, visits):  # type: ignore[no-untyped-def]
    """Per row the best centroid, and the up to MOST_VISITS next ones within `width` of it, the nearest first."""
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


def estimate_recall(pair_rows: Array, is_found: Array, rows: int) -> Recall:
    """The share of true pairs that were found, with Wilson's interval. pair_rows: the sampled row of each pair;
    is_found: whether the search found it; rows: how many rows were sampled. The pairs of one row are correlated, so the
    sample's size is Kish's effective size.
    """
    if not len(pair_rows):
        return Recall(0.0, 0.0, 1.0, 0, rows)
    per_row = np.unique(pair_rows, return_counts=True)[1].astype(np.float64)
    size = per_row.sum() ** 2 / (per_row**2).sum()
    share, z = float(is_found.mean()), 1.959964
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * (share * (1 - share) / size + z * z / (4 * size * size)) ** 0.5
    return Recall(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), len(pair_rows), rows)
