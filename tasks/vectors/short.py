"""Short vectors: random projections of a matrix's rows, so that few numbers say which rows can be near each other.

The cosine of two rows' short vectors is their own cosine, but for chance: Fisher's z of it is nearly normal, with a
standard deviation of 1 / sqrt(DIMENSIONS - 3). So a search compares short vectors, a sixth of the work at 384
dimensions, and measures the pairs that come near enough by their whole vectors.

Source: docs/papers.md#dedup, layer 3.
"""

import numpy as np

from synthmill.tasks.cores import Array
from synthmill.tasks.vectors.links import Matrix, Near, SpreadContext, map_blocks

DIMENSIONS = 64
MARGIN = 4.0  # standard deviations: of 30,000 near pairs one is not seen
LISTED = 64  # of a row's pairs in a tile, before they are measured
LEAST = 0.5  # the lowest cosine of short vectors for which few other pairs come near enough


def short_threshold(threshold: float) -> float:
    """The cosine that short vectors of rows with this cosine reach, by MARGIN."""
    return float(np.tanh(np.arctanh(min(threshold, 0.999)) - MARGIN / (DIMENSIONS - 3) ** 0.5))


def shortened(matrix: Matrix, threshold: float, workers: SpreadContext | None = None) -> Near | None:
    """Short vectors of the same ranks and groups, float16, in memory; None where they would save nothing."""
    dimensions = matrix.vectors.shape[1]
    if dimensions < 2 * DIMENSIONS or short_threshold(threshold) < LEAST:
        return None
    draws = np.random.default_rng(0).standard_normal((dimensions, DIMENSIONS))
    basis = np.linalg.qr(draws)[0].astype(np.float32)
    ranks, vectors = map_blocks(matrix, shorten, basis, workers=workers)
    if workers:
        np.save(workers.folder / "short.npy", vectors)
        vectors = np.load(workers.folder / "short.npy", mmap_mode="r")
    return Near(Matrix(vectors, np.argsort(ranks), matrix.groups), short_threshold(threshold), LISTED)


def shorten(matrix: Matrix, block: Array, basis: Array) -> tuple[Array, Array]:
    """(ranks, short vectors)"""
    short = matrix.take(block) @ basis
    short /= np.maximum(np.linalg.norm(short, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return block, short.astype(np.float16)
