"""How far scorers agree: Spearman's rank correlation within each prompt's pool, averaged over prompts."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from synthmill.tasks.cores import Array


def rank_correlation(scores: Sequence[float | None], other_scores: Sequence[float | None]) -> float | None:
    """Spearman's, over the answers that both scored; ties take their mean rank. None without an order."""
    common = [(a, b) for a, b in zip(scores, other_scores, strict=True) if a is not None and b is not None]
    if len(common) < 2:
        return None
    first, second = (pl.Series(values, dtype=pl.Float64).rank().to_numpy() for values in zip(*common, strict=True))
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


class Agreement:
    """Collects, per pair of scorers, the correlations within pools."""

    def __init__(self) -> None:
        self.correlations: dict[tuple[str, str], list[float]] = {}
        self.without_order: dict[tuple[str, str], int] = {}

    def add(self, scores: Sequence[Any]) -> None:
        """scores: one pool's, as dicts with `scorer` and `values`."""
        for score, other_score in combinations(scores, 2):
            pair = score["scorer"], other_score["scorer"]
            value = rank_correlation(score["values"], other_score["values"])
            if value is None:
                self.without_order[pair] = self.without_order.get(pair, 0) + 1
            else:
                self.correlations.setdefault(pair, []).append(value)

    def summary(self) -> list[dict[str, Any]]:
        """Per pair: the mean over pools, its standard error, how many pools, and how many had no order."""
        rows = []
        for pair in dict.fromkeys((*self.correlations, *self.without_order)):
            values: Array = np.array(self.correlations.get(pair, []))
            rows.append(
                {
                    "one": pair[0],
                    "other": pair[1],
                    "spearman": float(values.mean()) if len(values) else None,
                    "error": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None,
                    "pools": len(values),
                    "without_order": self.without_order.get(pair, 0),
                }
            )
        return rows
