"""What rules keep of the same rows, in numbers: shares, scores, lengths, diversity, and how far rules agree.

Source: docs/papers.md#selection-table.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.draws import seeds_of
from synthmill.tasks.dedup.contamination import WordIndex
from synthmill.tasks.dedup.word_grams import Grams, grams_of
from synthmill.tasks.vectors.vendi import vendi_score

GRAM = 3
CONTROL = 1 << 62
"""The seed of the control: one that stages which draw by the same hashes hardly have."""


@dataclass(frozen=True)
class Choice:
    """What a rule keeps. rows: places of the kept rows, each once; keys: what tells one choice from another in a row
    (a pair's answers), if more than its row does; columns: numbers of what is kept, by name, each an array.
    """

    name: str
    rows: Array
    keys: AbstractSet[tuple[Any, ...]]
    columns: Mapping[str, Array]


class RowTexts:
    """All rows that rules choose from. vectors: (rows, dimensions) or None; contaminated: (rows,) or None."""

    def __init__(
        self, ids: Sequence[str], texts: Sequence[str], vectors: Array | None, contaminated: Array | None
    ) -> None:
        self.grams: Grams = grams_of(texts, GRAM)
        self.vectors, self.contaminated = vectors, contaminated
        self.drawn = np.argsort(seeds_of(ids, CONTROL), kind="stable")  # as many of these are a rule's control

    def __len__(self) -> int:
        return len(self.drawn)

    def figures(self, rows: Array) -> dict[str, float | None]:
        """Diversity of some rows, and of as many that are drawn at random; the share of contaminated ones."""
        control = self.drawn[: len(rows)]
        contaminated = None if self.contaminated is None or not len(rows) else float(self.contaminated[rows].mean())
        return {
            "vendi": self.vendi(rows),
            "vendi_random": self.vendi(control),
            "different_grams": self.different_grams(rows),
            "different_grams_random": self.different_grams(control),
            "contaminated": contaminated,
        }

    def vendi(self, rows: Array) -> float | None:
        return None if self.vectors is None or not len(rows) else vendi_score(self.vectors[rows])

    def different_grams(self, rows: Array) -> float | None:
        """The different runs of GRAM words as a share of all, a run counted once in each row."""
        starts = self.grams.starts
        chosen = [self.grams.hashes[starts[row] : starts[row + 1]] for row in rows.tolist()]
        runs = np.concatenate([np.zeros(0, np.uint64), *chosen])
        return len(np.unique(runs)) / len(runs) if len(runs) else None


def contaminated_rows(texts: Sequence[str], turns: Sequence[str]) -> Array:
    """Which texts hold a benchmark's turn, word for word, (texts,) bool."""
    marked = np.zeros(len(texts), bool)
    marked[[*WordIndex(turns).find(texts)]] = True
    return marked


def rule_figures(choice: Choice, texts: RowTexts, cost: float) -> dict[str, Any]:
    """The figures of one rule. cost: of all rows together."""
    kept = len(choice.rows)
    means = {
        name: float(np.nanmean(values)) if has_numbers(values) else None for name, values in choice.columns.items()
    }
    return {
        "rule": choice.name,
        "kept": kept,
        "share": kept / len(texts) if len(texts) else 0.0,
        "choices": len(choice.keys),
        **means,
        **texts.figures(choice.rows),
        "cost_per_kept": cost / kept if kept else None,
    }


def has_numbers(values: Array) -> bool:
    return bool(np.isfinite(values).any())


def overlap(choices: Sequence[Choice], of: str = "rows") -> list[list[float]]:
    """Jaccard of what each two rules keep: of the rows, or of the keys. Two rules that keep nothing agree."""
    kept = [set(choice.rows.tolist()) if of == "rows" else choice.keys for choice in choices]
    return [[jaccard(first, second) for second in kept] for first in kept]


def jaccard(first: AbstractSet[Any], second: AbstractSet[Any]) -> float:
    return len(first & second) / len(first | second) if first or second else 1.0
