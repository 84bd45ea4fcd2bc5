"""Duplicates. A cut adds `kept`, `duplicate_of`, `similarity`, `layer` and deletes nothing; the exporter honours it."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from schemas.hashing import content_hash
from schemas.rows import Dropped
from schemas.texts import normalised
from tasks.frames import FrameStage

BLOCK = 1024


def first_alike(vectors: np.ndarray[Any, Any], threshold: float) -> list[int]:
    """Per unit vector, the first kept one before it with a cosine >= threshold, or -1 (then it is kept itself).

    vectors: (texts, dimensions) float32. Greedy in order: what follows never changes what was kept before.
    """
    kept = np.zeros((0,), dtype=np.int64)
    alike: list[int] = []
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        before = (block @ vectors[kept].T) >= threshold
        within = (block @ block.T) >= threshold
        chosen: list[int] = []
        for row in range(len(block)):
            if before[row].any():
                alike.append(int(kept[before[row].argmax()]))
            elif same := [other for other in chosen if within[row, other]]:
                alike.append(start + same[0])
            else:
                chosen.append(row)
                alike.append(-1)
        kept = np.append(kept, [start + row for row in chosen])
    return alike


class ExactDuplicates(FrameStage):
    """Marks rows whose normalised `columns` equal those of a row that stays; the first in order of id stays, so that
    the input's order changes nothing. Source: docs/papers.md#dedup, layer 1.
    """

    name: ClassVar = "unique_pairs"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "system", "prompt")
    adds: ClassVar = ("kept", "duplicate_of", "similarity", "layer")

    columns: tuple[str, ...] = ("system", "prompt")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        keys = [
            content_hash([normalised("" if text is None else str(text)) for text in row])
            for row in frame.select(self.columns).iter_rows()
        ]
        keyed = frame.with_columns(pl.Series("_key", keys, dtype=pl.String))
        first = pl.col("id").min().over("_key")
        kept = pl.col("id") == first
        return keyed.with_columns(
            kept=kept,
            duplicate_of=pl.when(kept).then(None).otherwise(first),
            similarity=pl.when(kept).then(None).otherwise(pl.lit(1.0)),
            layer=pl.when(kept).then(None).otherwise(pl.lit("exact")),
        ).drop("_key"), []
