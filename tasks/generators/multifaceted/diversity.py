"""How different an instruction's variants are: its descriptions, its system messages, its responses.

Source: docs/papers.md#multifaceted, "diversity"; ours.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from synthmill.schemas.rows import Dropped
from synthmill.tasks.texts.words import rouge_l
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed

LONGEST = 20_000  # characters of a response that are compared
FLAGGED = 0.7
"""ROUGE-L above which two descriptions of a dimension count as alike."""


def pairwise_rouge(texts: Sequence[str]) -> list[float]:
    """ROUGE-L of every two texts."""
    return [rouge_l(first, second) for first, second in combinations(texts, 2)]


def mean_cosine_distance(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float | None:
    """Mean cosine distance of every two of these unit vectors, without forming the pairs; None for fewer than two."""
    count = len(vectors)
    if count < 2:
        return None
    total = float(np.square(vectors.sum(axis=0, dtype=np.float64)).sum())
    return 1 - (total - count) / (count * (count - 1))


class Diversity(EmbeddingStage):
    """Instructions with variants -> the same with how alike these are: `description_rouge_l` (by dimension, the mean
    over pairs of sets), `most_alike` (the highest of any pair) and `alike` (it is over 0.7); `system_spread` (mean
    cosine distance of its system messages); `response_rouge_l` (mean over pairs).
    """

    name: ClassVar = "diversity"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "sets", "systems", "responses")
    adds: ClassVar = ("description_rouge_l", "most_alike", "alike", "system_spread", "response_rouge_l")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        vectors = embed(self.embedder, frame["systems"].explode(empty_as_null=False).to_list(), store)
        descriptions, most_alike, systems, responses, start = [], [], [], [], 0
        for row in frame.iter_rows(named=True):
            by_dimension = [
                pairwise_rouge([value["description"] for value in values]) for values in zip(*row["sets"], strict=True)
            ]
            descriptions.append([float(np.mean(pairs)) if pairs else 0.0 for pairs in by_dimension])
            most_alike.append(max((alike for pairs in by_dimension for alike in pairs), default=0.0))
            systems.append(mean_cosine_distance(vectors[start : start + len(row["systems"])]))
            start += len(row["systems"])
            pairs = pairwise_rouge([response["text"][:LONGEST] for response in row["responses"]])
            responses.append(float(np.mean(pairs)) if pairs else 0.0)
        return frame.with_columns(
            pl.Series("description_rouge_l", descriptions, dtype=pl.List(pl.Float64)),
            pl.Series("most_alike", most_alike, dtype=pl.Float64),
            pl.Series("alike", [highest > FLAGGED for highest in most_alike], dtype=pl.Boolean),
            pl.Series("system_spread", systems, dtype=pl.Float64),
            pl.Series("response_rouge_l", responses, dtype=pl.Float64),
        ), []
