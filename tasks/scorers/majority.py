"""A guard over mixtures: which of a prompt's answers stand with most of the others. Source: docs/papers.md#majority."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from synthmill.tasks.cores import Array
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed

MOST_ROUNDS = 50
APART = 0.2  # difference of cosines: how much nearer an answer is to its own cluster than to the other, in the mean


class MajorityScores(EmbeddingStage, FrameScorer):
    """Pools -> the same, each answer 1 where it is in the larger of two clusters by meaning, 0 in the smaller.

    Where the two are hardly apart, or equally large, nobody is a minority: all get 1. An empty answer gets 0. A pool of
    fewer than three answers has no majority, and no scores.
    """

    name: ClassVar = "majority_scores"
    version: ClassVar = "1"

    label: str = "majority"
    apart: float = APART

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        texts = [[answer["text"] for answer in pool["answers"]] for pool in pools]
        vectors = embed(self.embedder, [text for answers in texts for text in answers], store)
        start = 0
        for answers in texts:
            of_pool = vectors[start : start + len(answers)]
            start += len(answers)
            written = [place for place, text in enumerate(answers) if text.strip()]
            values: list[float | None] = [0.0] * len(answers)
            marks = [None] * len(written) if len(written) < 3 else majority(of_pool[written], self.apart).tolist()
            for place, mark in zip(written, marks, strict=True):
                values[place] = None if mark is None else float(mark)
            yield values


class MajoritySettings(ScorerSettings):
    """1 for answers that stand with most of the others in meaning, 0 for those that stand apart."""

    kind: Literal["majority"] = "majority"
    apart: float = Field(
        APART, ge=0, le=2, description="the least mean difference of cosines, own cluster less the other, to part them"
    )

    def stage(self, context: ScoringContext) -> MajorityScores:
        return MajorityScores(embedder=context.embedder, label=self.label, apart=self.apart)


def majority(vectors: Array, apart: float = APART) -> Array:
    """Who is in the larger of two clusters, (answers,) bool: 2-means on the sphere, from the two least alike answers.

    vectors: (answers, dimensions), of length 1.
    """
    likeness = vectors @ vectors.T
    first, second = np.unravel_index(int(np.argmin(likeness)), likeness.shape)
    in_second = likeness[second] > likeness[first]
    for _ in range(MOST_ROUNDS):
        if in_second.all() or not in_second.any():
            return np.ones(len(vectors), bool)
        nearer = to_centre(vectors, vectors[in_second]) > to_centre(vectors, vectors[~in_second])
        if (nearer == in_second).all():
            break
        in_second = nearer
    if in_second.all() or not in_second.any():
        return np.ones(len(vectors), bool)
    gap = to_centre(vectors, vectors[in_second]) - to_centre(vectors, vectors[~in_second])
    size = int(in_second.sum())
    if np.where(in_second, gap, -gap).mean() < apart or 2 * size == len(vectors):
        return np.ones(len(vectors), bool)
    larger: Array = in_second if 2 * size > len(vectors) else ~in_second
    return larger


def to_centre(vectors: Array, cluster: Array) -> Array:
    """Cosines to a cluster's direction."""
    centre = cluster.mean(axis=0)
    cosines: Array = vectors @ (centre / max(float(np.linalg.norm(centre)), 1e-12))
    return cosines
