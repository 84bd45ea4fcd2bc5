"""Rows for reinforcement learning with rewards that can be checked.

Source: docs/papers.md#verifiers.
"""

from pathlib import Path
from typing import Any, ClassVar

import orjson
import polars as pl
from pydantic import Field, model_validator

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.storage.plain_files.pool_rows import VERIFIER
from synthmill.tasks.tables.pass_rates import PASSING, rates_of
from synthmill.tasks.tables.pool_scores import beside_answers
from synthmill.tasks.tables.table_stage import TableStage, drops
from synthmill.tasks.verifiers.verdicts import verifier_fault


class RlRows(TableStage):
    """Prompts or pools -> a row per prompt: prompt, system, answer (the reference), verifier, verifier_arguments
    (JSON), data_source, pass_rate (null where nothing says it), and the rows' other columns but answers and scores.

    verifier, arguments: of all rows; default: the rows' own columns. score: of pools, whose share of passes is the
    pass_rate; default: the rows' own column. Drops: bad_verifier.
    """

    name: ClassVar = "rl_rows"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt")
    adds: ClassVar = ("answer", *VERIFIER, "data_source", "pass_rate")

    verifier: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    score: str = ""
    passing: float = PASSING
    data_source: str = Field("", description="default: the rows' own column data_source, else source")

    @model_validator(mode="after")
    def check(self) -> "RlRows":
        if self.arguments and not self.verifier:
            raise ValueError("arguments belong to a verifier; name it")
        if self.verifier and (fault := verifier_fault(self.verifier, orjson.dumps(self.arguments).decode())):
            raise ValueError(fault)
        return self

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        if not self.verifier and VERIFIER[0] not in frame.columns:
            raise InputError(f"stage {self.name}: name a `verifier`, or give the rows a column {VERIFIER[0]}")
        rows = frame.select(
            "id",
            "prompt",
            *(["system"] if "system" in frame.columns else []),
            text_of(frame, "reference").alias("answer"),
            *self.verifiers(frame),
            self.source(frame).alias("data_source"),
            self.rate(frame).alias("pass_rate"),
        )
        own = [name for name in beside_answers(frame) if name not in (*rows.columns, "reference")]
        faults = [verifier_fault(name, arguments) for name, arguments in rows.select(VERIFIER).iter_rows()]
        bad = pl.Series(map(bool, faults), dtype=pl.Boolean)
        dropped = drops(frame["id"].filter(bad), "bad_verifier", filter(None, faults))
        return pl.concat([rows, frame.select(own)], how="horizontal").filter(~bad), dropped

    def verifiers(self, frame: pl.DataFrame) -> list[pl.Expr]:
        """verifier and verifier_arguments."""
        if self.verifier:
            values = (self.verifier, orjson.dumps(self.arguments, option=orjson.OPT_SORT_KEYS).decode())
            return [pl.lit(value).alias(name) for name, value in zip(VERIFIER, values, strict=True)]
        name, arguments = (text_of(frame, column) for column in VERIFIER)
        empty = pl.when(arguments == "").then(pl.lit("{}")).otherwise(arguments)
        return [name.str.strip_prefix("verify:").alias(VERIFIER[0]), empty.alias(VERIFIER[1])]

    def source(self, frame: pl.DataFrame) -> pl.Expr:
        if self.data_source:
            return pl.lit(self.data_source)
        return text_of(frame, "data_source" if "data_source" in frame.columns else "source")

    def rate(self, frame: pl.DataFrame) -> pl.Series | pl.Expr:
        if self.score:
            return rates_of(frame, f"stage {self.name}", self.score, self.passing)[2]
        return pl.col("pass_rate").cast(pl.Float64) if "pass_rate" in frame.columns else pl.lit(None, pl.Float64)


def text_of(frame: pl.DataFrame, column: str) -> pl.Expr:
    """A column as text; empty where there is none. Raises InputError for a column of anything but texts and numbers."""
    if column not in frame.columns:
        return pl.lit("")
    kind = frame.schema[column]
    if kind.is_nested():
        raise InputError(f"the column {column!r} holds {kind}; expected texts: write it as JSON (to_json in a `map`)")
    return pl.col(column).cast(pl.String).fill_null("")
