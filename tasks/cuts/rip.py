"""RIP: keep the prompts whose rejected answer is good and long and not far below the chosen one.

Source: docs/papers.md#rip. It removes prompts, and never pairs answers anew.
"""

import numpy as np

from synthmill.schemas.cut_settings import LIMITS, Thresholds
from synthmill.tasks.cores import Array

Metrics = dict[str, Array]
"""rejected_reward, rejected_length, gap: (pairs,) numbers."""


def fit(metrics: Metrics, quantiles: dict[str, float | None], fixed: Thresholds) -> Thresholds:
    """Limits at quantiles of the pairs' metrics, with linear interpolation. A quantile of None asks for no limit, and a
    fixed limit is not fitted.
    """
    count = len(metrics["gap"])
    fitted_at = {
        name: quantile for name, quantile in quantiles.items() if quantile is not None and getattr(fixed, name) is None
    }
    fitted = {name: float(np.quantile(metrics[name], quantile)) for name, quantile in fitted_at.items() if count}
    return fixed.model_copy(update={**fitted, "quantiles": {name: fitted_at[name] for name in fitted}, "pairs": count})


def limits_met(metrics: Metrics, limits: Thresholds) -> dict[str, Array]:
    """Per limit, (pairs,) bool: at least the reward, at least the length, at most the gap."""
    verdicts = {}
    for name in LIMITS:
        limit = getattr(limits, name)
        if limit is not None:
            verdicts[name] = metrics[name] <= limit if name == "gap" else metrics[name] >= limit
    return verdicts


def keeps(metrics: Metrics, limits: Thresholds) -> Array:
    """(pairs,) bool: within every limit."""
    kept: Array = np.logical_and.reduce([np.ones(len(metrics["gap"]), bool), *limits_met(metrics, limits).values()])
    return kept
