"""Stages that choose rows: by a condition, by a score, by chance."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import orjson
import polars as pl
from pydantic import BeforeValidator, Field, model_validator

from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.cuts.draws import seeds_of
from synthmill.tasks.tables.pool_scores import Over, score_of
from synthmill.tasks.tables.table_stage import Names, TableStage, WholeTableStage, compute_on, drops

EXACT_BITS = 53  # of a hash that a float holds


def written_expression(value: Any) -> Any:
    """A polars expression as its JSON text; a text as it is. Raises ValueError for one with code or chance in it."""
    text = value.meta.serialize(format="json") if isinstance(value, pl.Expr) else value
    if isinstance(text, str) and text:
        refuse_code_and_chance(orjson.loads(text))
    return text


def refuse_code_and_chance(tree: Any) -> None:
    """Raises ValueError for an expression that holds Python functions, or draws without a seed."""
    for name, branch in tree.items() if isinstance(tree, dict) else ():
        if "Anonymous" in name or "Python" in name or name == "RenameAlias":
            raise ValueError("its expression holds a Python function, which no setting can hold; use polars' own")
        if name in ("Random", "Sample") and isinstance(branch, dict) and branch.get("seed") is None:
            raise ValueError("its expression draws at random without a seed; give it one")
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        refuse_code_and_chance(branch)


class Filter(WholeTableStage):
    """Rows -> those that satisfy a condition; the others, and those where it is null, are dropped as `filtered`.

    where: an SQL condition over a row's columns, part by part; a row where it cannot be computed is dropped as
    `not_computed`. expression: from Python, a polars expression (settings hold its JSON); it may look at all rows, so
    it is applied to all of them at once.
    """

    name: ClassVar = "filter"
    version: ClassVar = "1"

    where: str = ""
    expression: Annotated[str, BeforeValidator(written_expression)] = ""

    @model_validator(mode="after")
    def one_condition(self) -> Self:
        if bool(self.where) == bool(self.expression):
            raise ValueError("filter needs one condition: where (SQL), or expression (polars)")
        return self

    @property
    def whole(self) -> bool:  # type: ignore[override]
        return bool(self.expression)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        failed: list[int] = []
        if self.where:
            computed = compute_on(frame, {"satisfied": self.where})
            satisfied, condition = pl.Series(computed.values["satisfied"]), self.where
            failed = computed.failed.get("satisfied", [])
            faults = drops(frame["id"].gather(failed), "not_computed", [*computed.faults.values()] * len(failed))
        else:
            expression = pl.Expr.deserialize(io.StringIO(self.expression), format="json")
            check_columns(f"stage {self.name}", expression.meta.root_names(), frame.columns)
            satisfied, condition = frame.select("id", satisfied=expression)["satisfied"], str(expression)
            faults = []
        if satisfied.dtype not in (pl.Boolean, pl.Null):
            raise InputError(f"filter: {condition!r} gives {satisfied.dtype}; expected a condition: true or false")
        kept = satisfied.cast(pl.Boolean).fill_null(False)
        out = ~kept
        if failed:
            out = out.scatter(failed, False)
        ids = frame.filter(out)["id"]
        return frame.filter(kept), [*drops(ids, "filtered", [condition] * len(ids)), *faults]


class ScoreLimit(TableStage):
    """Rows -> those whose score is on the right side of `value`, or equal to it. score: a column of numbers, or a score
    of pools, by its label; of several answers, `over` says which number counts. A row without one is dropped, too.
    """

    version: ClassVar = "1"
    reason: ClassVar[str]

    score: str
    value: float
    over: Over = "max"

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        scores = score_of(frame, f"stage {self.name}", self.score, self.over)
        kept = self.within_limit(scores).fill_null(False)
        rest = ~kept
        return frame.filter(kept), drops(frame["id"].filter(rest), self.reason, map(shown, scores.filter(rest)))

    def within_limit(self, scores: pl.Series) -> pl.Series:
        raise TypeError(f"{type(self).__name__} must define within_limit(scores)")


class AtLeast(ScoreLimit):
    """Rows -> those whose score is at least `value`; the others are dropped as `below`, with their score."""

    name: ClassVar = "at_least"
    reason: ClassVar = "below"

    def within_limit(self, scores: pl.Series) -> pl.Series:
        return scores >= self.value


class AtMost(ScoreLimit):
    """Rows -> those whose score is at most `value`; the others are dropped as `above`, with their score."""

    name: ClassVar = "at_most"
    reason: ClassVar = "above"

    def within_limit(self, scores: pl.Series) -> pl.Series:
        return scores <= self.value


def shown(score: float | None) -> str:
    return "no score" if score is None else f"{score:.6g}"


class Share(WholeTableStage):
    """How many rows stay: `count` of them, or a `share` of all."""

    count: int | None = Field(None, ge=1)
    share: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def count_or_share(self) -> Self:
        if (self.count is None) == (self.share is None):
            raise ValueError(f"{self.name} needs one of count and share")
        return self


class Top(Share):
    """Rows -> those with the highest scores, in their old order; the others are dropped as `not_top`. Of equal scores,
    the lower id goes first; a row without a score is never among them.

    within: columns; `count` or `share` (rounded up) rows of each combination of their values.
    """

    name: ClassVar = "top"
    version: ClassVar = "1"

    score: str
    over: Over = "max"
    within: Names = ()

    def columns_read(self) -> Sequence[str]:
        return self.within

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        scores = score_of(frame, f"stage {self.name}", self.score, self.over)
        groups = [frame[name].alias(f"within {name}") for name in self.within]
        rows = pl.DataFrame([scores.alias("score"), frame["id"], *groups]).with_row_index("place")
        within = pl.struct(group.name for group in groups) if groups else pl.lit(0)
        ranked = rows.sort("score", "id", descending=[True, False], nulls_last=True).with_columns(
            rank=pl.int_range(pl.len()).over(within), size=pl.len().over(within)
        )
        most = pl.lit(self.count) if self.count else (pl.col("size") * self.share - 1e-9).ceil()
        marked = ranked.with_columns(kept=(pl.col("rank") < most) & pl.col("score").is_not_null()).sort("place")
        rest = marked.filter(~pl.col("kept"))
        return frame.filter(marked["kept"]), drops(rest["id"], "not_top", map(shown, rest["score"]))


class SampleRows(Share):
    """Rows -> some, drawn by a hash of their ids, in their old order; the others are dropped as `not_drawn`.

    share: every row stays or goes by itself, so rows that are added change no other's fate, and the share is met on
    average. count: exactly so many (all, if there are fewer). Two such stages with one seed draw by the same hashes;
    give the second another seed.
    """

    name: ClassVar = "sample_rows"
    version: ClassVar = "1"

    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def whole(self) -> bool:  # type: ignore[override]
        return self.share is None

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        keys = seeds_of(frame["id"], self.seed)
        if self.share is not None:
            kept = (keys >> np.uint64(64 - EXACT_BITS)) < self.share * 2.0**EXACT_BITS
        else:
            kept = np.zeros(frame.height, bool)
            kept[np.lexsort((frame["id"].to_numpy(), keys))[: self.count]] = True
        rest = frame["id"].filter(pl.Series(~kept))
        return frame.filter(pl.Series(kept)), drops(rest, "not_drawn", [""] * len(rest))
