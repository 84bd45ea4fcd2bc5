"""Whether confidence means what it says: expected calibration error, Brier score, AUROC.

Source: docs/papers.md#confidence.
"""

from collections.abc import Callable

import numpy as np

from synthmill.tasks.cores import Array
from synthmill.tasks.trust.measures import CONFIDENCE

BINS = 10
Measure = Callable[[Array, Array, Array], float]


def calibration(
    confidences: Array, right: Array, prompts: Array, draws: int, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """ECE, Brier and AUROC with intervals by bootstrap over prompts. confidences: 0 to 1; right: 0 or 1; prompts: each
    answer's, int: all (answers,).
    """
    random, figures = np.random.default_rng(seed), {}
    numbers = np.unique(prompts, return_inverse=True)[1]
    count = int(numbers.max(initial=-1)) + 1
    resamples = random.integers(0, max(count, 1), (draws, count))
    for name, measure in MEASURES.items():
        value = measure(confidences, right, np.ones(len(right)))
        weights = (np.bincount(row, minlength=count)[numbers].astype(float) for row in resamples)
        values: Array = np.array([measure(confidences, right, weight) for weight in weights])
        values = values[np.isfinite(values)]
        if not np.isfinite(value) or not len(values):
            figures[name] = dict.fromkeys(("value", "low", "high"))
            continue
        low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        figures[name] = {"value": value, "low": float(low), "high": float(high)}
    return figures


def calibration_error(confidences: Array, right: Array, weights: Array) -> float:
    """The mean distance of confidence from the share of right answers, over BINS even bins, by their weight."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = np.abs(np.bincount(bins, weights * (confidences - right), BINS))
    return float(gaps.sum() / weights.sum()) if weights.sum() else float("nan")


def brier_score(confidences: Array, right: Array, weights: Array) -> float:
    """The mean squared distance of confidence from 1 or 0."""
    return float((weights * (confidences - right) ** 2).sum() / weights.sum()) if weights.sum() else float("nan")


def auroc(confidences: Array, right: Array, weights: Array) -> float:
    """The chance that a right answer has more confidence than a wrong one; equal ones count half."""
    _, places = np.unique(confidences, return_inverse=True)
    good, bad = np.bincount(places, weights * right), np.bincount(places, weights * (1 - right))
    below = np.cumsum(bad) - bad
    pairs = good.sum() * bad.sum()
    return float((good * (below + bad / 2)).sum() / pairs) if pairs else float("nan")


MEASURES: dict[str, Measure] = {"ece": calibration_error, "brier": brier_score, "auroc": auroc}
