"""One number per row: a column, or what a scorer gave a pool's answers; and the gap between two policies."""

from pathlib import Path
from typing import ClassVar, Literal

import polars as pl

from synthmill.schemas.column_names import absent
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.tables.table_stage import OURS, TableStage

Over = Literal["max", "min", "mean"]


def score_of(frame: pl.DataFrame, asked_by: str, score: str, over: Over) -> pl.Series:
    """A number per row, null where it has none or NaN: of a column, or, of a column of lists or the answers of a pool,
    their largest, smallest or mean. Raises InputError where there is no such score.
    """
    values = score_values(frame, asked_by, score)
    if isinstance(values.dtype, pl.List):
        values = getattr(values.list, over)()
    return values.cast(pl.Float64)


def score_values(frame: pl.DataFrame, asked_by: str, score: str) -> pl.Series:
    """As score_of, but a list of numbers for each pool, in the order of its answers; the last, where a label is there
    twice.
    """
    if score in frame.columns:
        return numbers_of(frame[score], asked_by)
    kind = frame.schema.get("scores")
    if not isinstance(kind, pl.List) or not isinstance(kind.inner, pl.Struct):
        raise InputError(f"{asked_by}: {absent(score, frame.columns)}, and no scores of pools")
    entry = pl.element().struct
    values = pl.when(entry.field("scorer") == score).then(entry.field("values"))
    of_pools = frame.select(pl.col("scores").list.eval(values).list.drop_nulls().list.last()).to_series()
    if of_pools.null_count() == frame.height:
        labels = frame["scores"].list.explode(keep_nulls=False, empty_as_null=False).struct.field("scorer")
        if names := sorted(labels.drop_nulls().unique()):
            raise InputError(f"{asked_by}: no pool has the score {score!r}; found the scores {', '.join(names)}")
    return numbers_of(of_pools.rename(score), asked_by)


def numbers_of(values: pl.Series, asked_by: str) -> pl.Series:
    """Numbers, or lists of them, without NaN. Raises InputError for anything else."""
    if values.dtype == pl.Null:
        return values.cast(pl.Float64)
    inner = values.dtype.inner if isinstance(values.dtype, pl.List) else values.dtype
    if not inner.is_numeric() and inner != pl.Null:
        raise InputError(f"{asked_by}: the column {values.name!r} holds {values.dtype}; expected numbers")
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.Float64)).list.eval(pl.element().fill_nan(None))
    return values.cast(pl.Float64).fill_nan(None)


def beside_answers(frame: pl.DataFrame) -> list[str]:
    """The columns of pools that are about the prompt: without answers, scores, and why an answer has none."""
    reasons = [name for name, kind in frame.schema.items() if name.endswith("_missing") and kind == pl.List(pl.String)]
    return [name for name in frame.columns if name not in ("answers", "scores", *reasons)]


class PolicyGap(TableStage):
    """Pools -> the same with a column `label`: the mean score of the answers of policy `high` minus that of `low`. By
    default these are the first and the second of the pool's policies, in the order of its answers. Null where a policy
    has no score.
    """

    name: ClassVar = "policy_gap"
    version: ClassVar = "1"

    score: str
    label: str = "gap"
    high: str = ""
    low: str = ""

    def columns_read(self) -> tuple[str, ...]:
        return ("answers",)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        if self.label in OURS:
            raise InputError(f"stage {self.name}: label cannot be {self.label}; choose another name for its column")
        kind = frame.schema["answers"]
        inner = kind.inner if isinstance(kind, pl.List) else None
        if not isinstance(inner, pl.Struct) or "policy" not in [field.name for field in inner.fields]:
            raise InputError(
                f"stage {self.name} needs answers that name their policy, as answers of several roles do; found {kind}"
            )
        values = score_values(frame, f"stage {self.name}", self.score)
        if not isinstance(values.dtype, pl.List):
            raise InputError(f"stage {self.name}: {self.score!r} is one number per row; expected one for each answer")
        pools = frame.select(
            row=pl.int_range(pl.len()),
            policy=pl.col("answers").list.eval(pl.element().struct.field("policy").fill_null("")),
            value=values,
        ).filter(pl.col("policy").list.len() == pl.col("value").list.len(), pl.col("value").list.len() > 0)
        means = pools.explode("policy", "value").group_by("row", "policy", maintain_order=True).agg(pl.mean("value"))
        highs = first_of(means.filter(policy_is(self.high, unlike=self.low)))
        rest = means.join(highs.select("row", taken="policy"), on="row").filter(pl.col("policy") != pl.col("taken"))
        lows = first_of(rest.filter(policy_is(self.low)))
        gaps = highs.join(lows, on="row", suffix="_low").select("row", gap=pl.col("value") - pl.col("value_low"))
        rows = pl.DataFrame({"row": pl.int_range(frame.height, eager=True)})
        gap = rows.join(gaps, on="row", how="left", maintain_order="left")["gap"]
        return frame.with_columns(gap.alias(self.label)), []


def policy_is(policy: str, unlike: str = "") -> pl.Expr:
    """Rows of a policy; where none is named, of any but `unlike`."""
    if policy:
        return pl.col("policy") == policy
    return pl.col("policy") != unlike if unlike else pl.lit(True)


def first_of(means: pl.DataFrame) -> pl.DataFrame:
    return means.unique("row", keep="first", maintain_order=True)
