"""Agreement of two raters, and its intervals by bootstrap over prompts.

A table counts comparisons: rows are one rater's verdict, columns the other's, each in the order of VERDICTS. Every
function takes one table, or a stack of them, (..., 3, 3), as a bootstrap makes them. Source: docs/papers.md#trust.
"""

from collections.abc import Callable

import numpy as np

from synthmill.tasks.cores import Array

VERDICTS = (-1, 0, 1)
"""The second answer is better, neither is, the first one is."""
DRAWS, CONFIDENCE = 1000, 0.95
CELLS_AT_ONCE = 1 << 22  # of a bootstrap's weights, draws x prompts


def accuracy(tables: Array) -> Array:
    """How often the second rater (columns) names the answer that the first one prefers; a tie counts half. Comparisons
    that the first one calls a tie are left out.
    """
    right = tables[..., 0, 0] + tables[..., 2, 2] + (tables[..., 0, 1] + tables[..., 2, 1]) / 2
    return ratio(right, tables[..., 0, :].sum(-1) + tables[..., 2, :].sum(-1))


def cohens_kappa(tables: Array) -> Array:
    """Agreement above chance over the three verdicts: (p_o - p_e) / (1 - p_e)."""
    shares = ratio(tables, tables.sum((-1, -2))[..., None, None])
    observed = np.trace(shares, axis1=-2, axis2=-1)
    expected = (shares.sum(-1) * shares.sum(-2)).sum(-1)
    return ratio(observed - expected, 1 - expected)


def krippendorffs_alpha(coincidences: Array) -> Array:
    """1 - observed / expected disagreement, by the interval metric: a tie lies halfway between the two verdicts.

    coincidences: ordered pairs of ratings of one unit, each weighted with 1 / (its raters - 1); of two raters, their
    table and its transpose.
    """
    values: Array = np.array(VERDICTS, float)
    distance = (values[:, None] - values) ** 2
    totals = coincidences.sum(-1)
    count = totals.sum(-1)
    observed = (coincidences * distance).sum((-1, -2))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum((-1, -2))
    alpha: Array = np.subtract(1.0, ratio((count - 1) * observed, expected))
    return alpha


def both_ways(tables: Array) -> Array:
    """The coincidences of two raters."""
    coincidences: Array = np.add(tables, np.swapaxes(tables, -1, -2))
    return coincidences


def ratio(above: Array, below: Array) -> Array:
    """above / below; NaN where there is nothing to divide by."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    quotient: Array = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient


def resampled_sums(statistics: Array, draws: int = DRAWS, seed: int = 0) -> Array:
    """Sums over prompts drawn with replacement. statistics: (prompts, k), sums over each prompt -> (draws, k)."""
    prompts, random = len(statistics), np.random.default_rng(seed)
    sums = np.empty((draws, statistics.shape[1]))
    block = max(1, CELLS_AT_ONCE // max(1, prompts))
    for start in range(0, draws, block):
        count = min(block, draws - start)
        resamples = random.integers(0, prompts, (count, prompts)) + np.arange(count)[:, None] * prompts
        weights = np.bincount(resamples.ravel(), minlength=count * prompts).reshape(count, prompts)
        sums[start : start + count] = weights @ statistics
    return sums


def with_interval(measure: Callable[[Array], Array], statistics: Array, sums: Array) -> dict[str, float | None]:
    """A measure and the percentiles of its bootstrap. measure: (..., k) sums -> (...); sums: of `resampled_sums`."""
    value, resampled = float(measure(statistics.sum(0))), measure(sums)
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(resampled):
        return {"value": None, "low": None, "high": None}
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
