"""How many different texts a set is worth: the Vendi score. Source: docs/papers.md#diversity (Friedman and Dieng 2023).

With the cosine as kernel, the eigenvalues of the n x n matrix of likenesses are those of the d x d matrix of the
vectors' products, so a million rows take one pass.
"""

import numpy as np

from synthmill.tasks.cores import Array

ROWS = 8192


def vendi_score(vectors: Array) -> float:
    """exp of the entropy of the eigenvalues of the cosines over n: 1 where all rows are alike, at most the number of
    dimensions. vectors: (rows, dimensions) unit vectors, may be a memory map; rows of zeros do not count; 0 for none.
    """
    dimensions = vectors.shape[1]
    products, rows = np.zeros((dimensions, dimensions)), 0
    for start in range(0, len(vectors), ROWS):
        block = np.asarray(vectors[start : start + ROWS], np.float32)
        products += block.T @ block
        rows += int(np.count_nonzero(block.any(axis=1)))
    if not rows:
        return 0.0
    values = np.linalg.eigvalsh(products / rows)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))
