"""Stages that choose rows which differ: of all that are there, a few of which every other one is near.

Source: docs/papers.md#diversity.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.column_names import check_columns, check_free
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store
from synthmill.tasks.cores import Array
from synthmill.tasks.frames import Artifact, ArtifactKey, FrameStage, StageContext, run_locally
from synthmill.tasks.tables.choosing import Share
from synthmill.tasks.tables.pool_scores import Over, score_of
from synthmill.tasks.tables.table_stage import Names, drops
from synthmill.tasks.vectors.buckets import k_means
from synthmill.tasks.vectors.facility_location import facility_location
from synthmill.tasks.vectors.k_center import k_center
from synthmill.tasks.vectors.links import Matrix
from synthmill.tasks.vectors.stage import Vectors, vectors_in
from synthmill.tasks.vectors.vendi import vendi_score

ADDED = ("pick", "evidence")
BLOCK = 4096
LEAST_COVERED = 4


class Picks(NamedTuple):
    """rows: those that are taken, in order; evidence: a number for each. notes: what is said of them all."""

    rows: Array
    evidence: Array
    notes: dict[str, float]


class DiverseRows(Share):
    """A stage that takes rows by their vectors, in their old order, with `pick` (its place in the order in which they
    were taken, from 0) and `evidence`; the others are dropped as `not_picked`. Its notes have the Vendi scores of all
    rows and of those that are taken. columns: whose texts are compared.
    """

    columns: Names = ("prompt",)
    vectors: ArtifactKey = ""

    def prerequisites(self) -> Mapping[str, FrameStage]:
        return {} if self.vectors else {"vectors": Vectors(columns=self.columns)}

    def others(self) -> tuple[Artifact, ...]:
        return ((Vectors.name, self.vectors),)

    def columns_read(self) -> Sequence[str]:
        return self.columns

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        check_columns(f"stage {self.name}", self.columns_read(), columns.names)
        check_free(f"stage {self.name}", ADDED, columns.names)
        return pa.schema([*columns, ("pick", pa.int64()), ("evidence", pa.float64())])

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return self.apply_in_context(frame, StageContext(store, run_locally, {}))

    def apply_in_context(self, frame: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        vectors = vectors_in(Store(context.store), self.vectors)
        if len(vectors) != frame.height:
            raise InputError(
                f"stage {self.name}: its vectors are of other rows; expected a step `vectors` with the same source"
            )
        size = self.count or int(np.ceil(frame.height * (self.share or 0) - 1e-9))
        size = min(size, frame.height)
        picks = self.pick(vectors, size, frame) if size else Picks(np.empty(0, np.int64), np.empty(0), {})
        taken = vectors[np.sort(picks.rows)]
        context.notes.update(picks.notes | {"vendi_before": vendi_score(vectors), "vendi": vendi_score(taken)})
        places = pl.DataFrame({"_row": picks.rows, "pick": np.arange(len(picks.rows)), "evidence": picks.evidence})
        marked = frame.with_columns(_row=pl.int_range(pl.len(), dtype=pl.Int64)).join(
            places.cast({"_row": pl.Int64, "pick": pl.Int64, "evidence": pl.Float64}),
            on="_row",
            how="left",
            maintain_order="left",
        )
        kept = marked.filter(pl.col("pick").is_not_null()).drop("_row")
        rest = marked.filter(pl.col("pick").is_null())["id"]
        return kept, drops(rest, "not_picked", [""] * len(rest))

    def pick(self, vectors: Array, count: int, frame: pl.DataFrame) -> Picks:
        raise TypeError(f"{type(self).__name__} must define pick(vectors, count, frame)")


class KCenter(DiverseRows):
    """Rows -> those of a k-center: each the row least like all that were taken before, so that every row is near one of
    them. evidence: its likeness to those before it (cosine). Texts without a vector are never taken.
    """

    name: ClassVar = "k_center"
    version: ClassVar = "1"

    def pick(self, vectors: Array, count: int, frame: pl.DataFrame) -> Picks:
        centres = k_center(vectors, count)
        return Picks(centres.rows, centres.likeness, {"radius": centres.radius})


class FacilityLocation(DiverseRows):
    """Rows -> those that stand best for all: each taken for what it adds to the mean likeness of every row to the
    nearest one that is taken. evidence: what it added.

    covered: rows, drawn by the seed, whose likeness counts; at least four times as many as are taken, or all, else each
    would be covered by itself. epsilon: how far, in the mean, below plain greedy's
    guarantee; 0 looks at all rows in each step.
    """

    name: ClassVar = "facility_location"
    version: ClassVar = "1"

    covered: int = Field(2000, ge=1)
    epsilon: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)

    def pick(self, vectors: Array, count: int, frame: pl.DataFrame) -> Picks:
        if self.covered < min(LEAST_COVERED * count, len(vectors)):
            raise InputError(
                f"stage {self.name}: covered is {self.covered}, and {count} rows are taken; expected {LEAST_COVERED} "
                "times as many, so set it, or take fewer"
            )
        draw = np.random.default_rng(self.seed)
        rows = np.sort(draw.choice(len(vectors), min(self.covered, len(vectors)), replace=False))
        taken = facility_location(vectors, count, rows, self.epsilon, self.seed)
        return Picks(taken.rows, taken.gains, {"covered": float(taken.gains.sum())})


class OnePerCluster(DiverseRows):
    """Rows -> one of each of `count` clusters of meaning (spherical k-means): that with the highest `score`, else the
    one nearest to the cluster's centre; of equal ones, the lower id. evidence: its likeness to the centre. Clusters
    without rows leave fewer.
    """

    name: ClassVar = "one_per_cluster"
    version: ClassVar = "1"

    score: str = ""
    over: Over = "max"
    seed: int = Field(0, ge=0, lt=2**63)

    def pick(self, vectors: Array, count: int, frame: pl.DataFrame) -> Picks:
        centres = k_means(Matrix.of(vectors), count, np.random.default_rng(self.seed))
        cluster, likeness = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), BLOCK):
            products = np.asarray(vectors[start : start + BLOCK], np.float32) @ centres.T
            cluster[start : start + BLOCK] = products.argmax(axis=1)
            likeness[start : start + BLOCK] = products.max(axis=1)
        rows = pl.DataFrame(
            {"row": np.arange(len(vectors)), "cluster": cluster, "likeness": likeness, "id": frame["id"]}
        )
        score = score_of(frame, f"stage {self.name}", self.score, self.over) if self.score else rows["likeness"]
        ranked = rows.with_columns(score=score).sort("score", "id", descending=[True, False], nulls_last=True)
        best = ranked.unique("cluster", keep="first", maintain_order=True).sort("cluster")
        return Picks(best["row"].to_numpy(), best["likeness"].to_numpy(), {"clusters": float(best.height)})
