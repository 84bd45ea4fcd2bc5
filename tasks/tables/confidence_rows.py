"""Rows for training a model to say how sure it is. Source: docs/papers.md#confidence."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.tasks.tables.pool_scores import score_values
from synthmill.tasks.tables.table_stage import TableStage, drops

KINDS = {**dict.fromkeys(("id", "parent_id", "prompt", "system", "completion"), pl.String), "confidence": pl.Float64}


class ConfidenceRows(TableStage):
    """Pools -> a row for each answer with a score from 0 to 1: prompt, system, completion, and that score as its
    `confidence`. A pool without such an answer is dropped as `no_confidence`.

    Confidence that means what it says comes from `calibrated_scores`.
    """

    name: ClassVar = "confidence_rows"
    version: ClassVar = "1"

    score: str = "calibrated"

    def columns_read(self) -> Sequence[str]:
        return ("prompt", "answers", "scores")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        values = score_values(frame, f"stage {self.name}", self.score).to_list() if frame.height else []
        systems = frame["system"].to_list() if "system" in frame.columns else [None] * frame.height
        rows, without = [], []
        pools = frame.select("id", "prompt", "answers").rows()
        for (row_id, prompt, answers), system, numbers in zip(pools, systems, values, strict=True):
            of_pool = [
                (child_id(row_id, n), row_id, prompt, system, answer["text"], number)
                for n, (answer, number) in enumerate(zip(answers, numbers or (), strict=False))
                if answer["text"].strip() and number is not None and 0 <= number <= 1
            ]
            rows += of_pool
            without += [] if of_pool else [row_id]
        details = [f"no answer has the score {self.score!r} from 0 to 1"] * len(without)
        return pl.DataFrame(rows, schema=KINDS, orient="row"), drops(without, "no_confidence", details)
