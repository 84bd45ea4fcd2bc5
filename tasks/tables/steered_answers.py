"""Rows for training a model that is steered by attributes. Source: docs/papers.md#helpsteer."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.tasks.scorers.each_answer import part_label
from synthmill.tasks.tables.pool_scores import score_values
from synthmill.tasks.tables.table_stage import Names, TableStage, drops

STEERLM = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


class SteeredAnswers(TableStage):
    """Pools with attributes -> a row for each answer that has all of them: prompt, system, completion, and `attributes`
    as one string, `helpfulness:4,correctness:3,...`, in the order of `attributes`, rounded to whole numbers.

    The scores are those called SCORE_ATTRIBUTE. A pool without such an answer is dropped as `no_attributes`.
    """

    name: ClassVar = "steered_answers"
    version: ClassVar = "1"

    score: str = Field("helpsteer", description="the label of the scorer that gave the attributes")
    attributes: Names = STEERLM

    def columns_read(self) -> Sequence[str]:
        return ("prompt", "answers", "scores")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        columns: list[list[list[float | None] | None]] = [
            score_values(frame, f"stage {self.name}", part_label(self.score, name)).to_list() if frame.height else []
            for name in self.attributes
        ]
        systems = frame["system"].to_list() if "system" in frame.columns else [None] * frame.height
        rows, without = [], []
        for place, (row_id, prompt, answers) in enumerate(frame.select("id", "prompt", "answers").rows()):
            values = [of_pools[place] or [None] * len(answers) for of_pools in columns]
            described = [self.describe(numbers) for numbers in zip(*values, strict=True)]
            rows += [
                (child_id(row_id, n), row_id, prompt, systems[place], answer["text"], text)
                for n, (answer, text) in enumerate(zip(answers, described, strict=True))
                if text
            ]
            without += [] if any(described) else [row_id]
        schema = dict.fromkeys(("id", "parent_id", "prompt", "system", "completion", "attributes"), pl.String)
        kept = pl.DataFrame(rows, schema=schema, orient="row")
        return kept, drops(without, "no_attributes", [", ".join(self.attributes)] * len(without))

    def describe(self, numbers: Sequence[float | None]) -> str:
        """An answer's attributes as a string; empty where one is missing."""
        present = [number for number in numbers if number is not None]
        if len(present) < len(numbers):
            return ""
        pairs = zip(self.attributes, present, strict=True)
        return ",".join(f"{name}:{math.floor(number + 0.5)}" for name, number in pairs)
