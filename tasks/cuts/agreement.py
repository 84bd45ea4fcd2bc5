"""How far scorers agree: Spearman's rank correlation within each prompt's pool, averaged over prompts."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from tasks.cores import Array


def rank_correlation(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    """Spearman's, ties at their mean rank, over the answers that both scored; None where one has no order."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(both) < 2:
        return None
    first, second = (pl.Series(values, dtype=pl.Float64).rank().to_numpy() for values in zip(*both, strict=True))
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


class Agreement:
    """Fed with pools' scores; per pair of scorers, the correlations within pools."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[float]] = {}
        self.without: dict[tuple[str, str], int] = {}

    def add(self, scores: Sequence[Any]) -> None:
        """scores: one pool's, as dicts with `scorer` and `values`."""
        for one, other in combinations(scores, 2):
            pair = one["scorer"], other["scorer"]
            value = rank_correlation(one["values"], other["values"])
            if value is None:
                self.without[pair] = self.without.get(pair, 0) + 1
            else:
                self.found.setdefault(pair, []).append(value)

    def told(self) -> list[dict[str, Any]]:
        """Per pair: the mean over pools, its standard error, how many pools, and how many had no order."""
        rows = []
        for pair in dict.fromkeys((*self.found, *self.without)):
            values: Array = np.array(self.found.get(pair, []))
            rows.append(
                {
                    "one": pair[0],
                    "other": pair[1],
                    "spearman": float(values.mean()) if len(values) else None,
                    "error": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None,
                    "pools": len(values),
                    "without_order": self.without.get(pair, 0),
                }
            )
        return rows
