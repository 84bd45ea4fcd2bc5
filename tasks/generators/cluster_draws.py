"""Prompts that are unlike each other, drawn round by round: one unused prompt of each cluster that is drawn.

Source: docs/papers.md#alma.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import digest
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store
from synthmill.tasks.asking.dealing import mixed, words_of
from synthmill.tasks.cores import Array
from synthmill.tasks.frames import Artifact, ArtifactKey, FrameStage, even_parts
from synthmill.tasks.vectors.buckets import k_means
from synthmill.tasks.vectors.layouts import BLOCK
from synthmill.tasks.vectors.links import Matrix
from synthmill.tasks.vectors.stage import Vectors, vectors_in


class ClusterDraws(FrameStage):
    """Prompts -> those of one round, with their `cluster` and `round`: each round draws `per_round` of `clusters`
    clusters, and of each of these one prompt that no earlier round has used, both by hash.

    vectors: those of the same rows, by the stage `vectors`. Drops: used (in an earlier round), not_drawn.
    """

    name: ClassVar = "cluster_draws"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt")
    adds: ClassVar = ("cluster", "round")

    vectors: ArtifactKey
    clusters: int = Field(2000, ge=1)
    per_round: int = Field(500, ge=1)
    round: int = Field(1, ge=1)
    seed: int = 0
    rows_per_part: int = Field(256, ge=1)

    def others(self) -> tuple[Artifact, ...]:
        return ((Vectors.name, self.vectors),)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        vectors = vectors_in(Store(store), self.vectors)
        if len(vectors) != frame.height:
            raise InputError(f"{self.name}: its vectors are of {len(vectors)} rows; expected the same {frame.height}")
        clusters = nearest(vectors, min(self.clusters, frame.height), self.seed)
        rounds = rounds_of(frame["id"].to_list(), clusters, self.per_round, self.round, self.seed)
        kept = frame.with_columns(cluster=pl.Series(clusters, dtype=pl.Int64), round=pl.Series(rounds, dtype=pl.Int64))
        others = kept.filter(pl.col("round") != self.round).select("id", "round", "cluster")
        dropped = [
            Dropped(id=row, reason="used" if drawn else "not_drawn", detail=f"cluster {cluster}")
            for row, drawn, cluster in others.iter_rows()
        ]
        return kept.filter(pl.col("round") == self.round), dropped


def nearest(vectors: Array, count: int, seed: int) -> Array:
    """Per vector, the number of the nearest of `count` k-means centroids."""
    matrix = Matrix.of(vectors)
    if not matrix.rows:
        return np.zeros(0, np.int64)
    centroids = k_means(matrix, count, np.random.default_rng(seed))
    blocks = [np.arange(start, min(start + BLOCK, matrix.rows)) for start in range(0, matrix.rows, BLOCK)]
    return np.concatenate([(matrix.take(block) @ centroids.T).argmax(axis=1) for block in blocks])


def rounds_of(ids: Sequence[str], clusters: Array, per_round: int, last: int, seed: int) -> Array:
    """Per row, the round from 1 to `last` that draws it, or 0. Clusters without an unused prompt are not drawn."""
    words, rounds = words_of(ids), np.zeros(len(ids), np.int64)
    order = np.lexsort((mixed(words ^ np.uint64(int.from_bytes(digest(["prompt", seed], size=8)))), clusters))
    unused: dict[int, list[int]] = {}
    for place in order[::-1]:
        unused.setdefault(int(clusters[place]), []).append(int(place))
    for number in range(1, last + 1):
        chosen_clusters = sorted(unused, key=lambda cluster: digest(["cluster", seed, number, cluster]))[:per_round]
        for cluster in chosen_clusters:
            rounds[unused[cluster].pop()] = number
            if not unused[cluster]:
                del unused[cluster]
    return rounds
