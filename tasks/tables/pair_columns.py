"""Columns that preference pairs take to a weighted loss: a margin against length, weights of several preferences.

Source: docs/papers.md#ilr-dpo, #more.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.cores import Array
from synthmill.tasks.tables.table_stage import TableStage, WholeTableStage
from synthmill.tasks.texts.words import tokens_of
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed_whole

SIDES = ("chosen", "rejected")
MOST_STEPS, PRECISION = 1000, 1e-5
"""MORE's own: iterations of its search for the shortest vector, and the change below which it ends."""


class LengthMargin(TableStage):
    """Pairs -> the same with `length_gap` (the chosen answer's length minus the rejected one's) and `loss_margin`:
    -`alpha` x that gap, what a loss -log sigmoid(x - margin) subtracts to be iLR-DPO's. Where rows have a `margin` of
    rewards, `penalised_margin` is that less `alpha` x the gap. length: `tokens` are words and runs of punctuation.
    """

    name: ClassVar = "length_margin"
    version: ClassVar = "1"
    needs: ClassVar = ("id", *SIDES)

    alpha: float = Field(0.02, ge=0, description="what a token, or a character, costs")
    length: Literal["tokens", "characters"] = "tokens"

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        chosen, rejected = (self.lengths(frame, side) for side in SIDES)
        penalty = self.alpha * pl.col("length_gap")
        rows = frame.with_columns(length_gap=chosen - rejected).with_columns(loss_margin=-penalty)
        if "margin" in rows.columns:
            rows = rows.with_columns(penalised_margin=pl.col("margin") - penalty)
        return rows, []

    def lengths(self, frame: pl.DataFrame, side: str) -> pl.Series:
        texts = texts_of_side(self.name, frame, side)
        if self.length == "characters":
            return texts.str.len_chars().cast(pl.Int64)
        counts = [None if text is None else len(tokens_of(text)) for text in texts]
        return pl.Series(side, counts, dtype=pl.Int64)


def texts_of_side(stage: str, frame: pl.DataFrame, side: str) -> pl.Series:
    """The answers of one side, which are texts. Raises InputError."""
    if frame.schema[side] not in (pl.String, pl.Null):
        raise InputError(f"stage {stage}: {side} holds {frame.schema[side]}; expected texts")
    return frame[side].cast(pl.String)


class MoreWeights(EmbeddingStage, WholeTableStage):
    """Pairs of several preferences -> the same with `more_weight`: the weight of the pair's preference, 1 on average
    over the preferences. by: the column that names it (a data set, an annotator's criterion).

    A linear reward over embeddings of the answers learns from all preferences at once. In each of `steps`, the weights
    are those of the shortest vector that the preferences' gradients can be mixed to (moving averages, `momentum` new),
    so that no preference is learned at the expense of another; the weights are the mean over the steps.
    """

    name: ClassVar = "more_weights"
    version: ClassVar = "1"
    needs: ClassVar = ("id", *SIDES)

    by: str
    steps: int = Field(200, ge=1, le=100_000)
    rate: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, gt=0, le=1)

    def columns_read(self) -> Sequence[str]:
        return (self.by,)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        names = frame[self.by].cast(pl.String).fill_null("")
        weights = dict.fromkeys(sorted(set(names)), 1.0)
        if frame.height:
            chosen, rejected = (
                embed_whole(self.embedder, texts_of_side(self.name, frame, side).fill_null("").to_list(), store)
                for side in SIDES
            )
            groups = [np.flatnonzero((names == name).to_numpy()) for name in weights]
            shares = more_weights([(chosen - rejected)[rows] for rows in groups], self.steps, self.rate, self.momentum)
            weights = dict(zip(weights, (shares * len(shares)).tolist(), strict=True))
        column = names.replace_strict(weights, return_dtype=pl.Float64) if weights else pl.Series([], dtype=pl.Float64)
        return frame.with_columns(column.alias("more_weight")), []


def more_weights(differences: Sequence[Array], steps: int, rate: float, momentum: float) -> Array:
    """The weight of each preference, (preferences,), their sum 1. differences: per preference, (pairs, dimensions):
    the chosen answer's features less the rejected one's.
    """
    head = np.zeros(differences[0].shape[1])
    gradients, weights = np.zeros((len(differences), len(head))), np.zeros(len(differences))
    for _ in range(steps):
        for place, features in enumerate(differences):
            wrong = 1 / (1 + np.exp(features @ head))  # the probability that the reward gives to the rejected answer
            gradients[place] += momentum * (-(wrong @ features) / len(features) - gradients[place])
        shares = shortest_mixture(gradients @ gradients.T)
        weights += shares / steps
        head -= rate * shares @ gradients
    return weights


def shortest_mixture(products: Array) -> Array:
    """The shares (at least 0, their sum 1) under which vectors mix to the shortest one: Frank-Wolfe with an exact line
    search. products: (vectors, vectors), their scalar products.
    """
    shares = np.full(len(products), 1 / len(products))
    for _ in range(MOST_STEPS):
        along = products @ shares
        corner = int(along.argmin())
        own, both, other = shares @ along, along[corner], products[corner, corner]
        span = own - 2 * both + other
        step = float(np.clip((own - both) / span, 0, 1)) if span > 0 else 0.0
        moved = (1 - step) * shares
        moved[corner] += step
        if np.abs(moved - shares).sum() < PRECISION:
            return moved
        shares = moved
    return shares
