"""How well a search was searched."""

from typing import NamedTuple


class Recall(NamedTuple):
    """The share of true pairs that were compared, with its 95 % interval, from `rows` that were compared with all;
    pairs: the true ones among these. Without any pair it is unknown: 0 to 1.
    """

    share: float
    low: float
    high: float
    pairs: int
    rows: int

    def __str__(self) -> str:
        if self.rows == 0:
            return "exact"
        if self.pairs == 0:
            return f"unknown: none of {self.rows:,} rows that were compared with all has a neighbour"
        return f"{self.share:.4f} ({self.low:.4f} to {self.high:.4f}: {self.pairs:,} pairs of {self.rows:,} rows)"


EXACT = Recall(1.0, 1.0, 1.0, 0, 0)
