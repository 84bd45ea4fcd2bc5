"""How diverse vectors are: the Vendi score. Source: docs/papers.md#vendi."""

from collections.abc import Iterable

import numpy as np

from synthmill.tasks.cores import Array

ROWS_AT_ONCE = 65_536


def vendi_score(vectors: Array) -> float:
    """The effective number of different vectors: exp of the entropy of the eigenvalues of K / n, K their cosines.

    vectors: (rows, dimensions), unit vectors; rows of zeros (texts that the model cannot read) are left out. 1 where
    all are equal, n where all are orthogonal, so never more than the dimensions; 0 without a vector. The n x n
    matrix's eigenvalues other than 0 are those of X^T X / n, which is dimensions x dimensions whatever n.
    """
    starts = range(0, len(vectors), ROWS_AT_ONCE)
    return vendi_of_blocks(vectors[start : start + ROWS_AT_ONCE] for start in starts)


def vendi_of_blocks(blocks: Iterable[Array]) -> float:
    """As `vendi_score`, block by block."""
    products, rows = np.zeros((0, 0)), 0
    for block in blocks:
        readable = np.asarray(block[np.any(block, axis=1)], np.float64)
        if len(readable):
            rows += len(readable)
            product = readable.T @ readable
            products = product if not products.size else products + product
    if not rows:
        return 0.0
    eigenvalues = np.clip(np.linalg.eigvalsh(products / rows), 0, None)
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
