"""Stages that change columns, split rows, or sort them."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.tasks.tables.table_stage import OURS, Names, TableStage, WholeTableStage, compute_on, drops


class Map(TableStage):
    """Rows -> the same with columns added or replaced (`columns`: name -> SQL expression over the columns that came
    in), then dropped, then renamed (old -> new). A row for which an expression fails is dropped as `not_computed`.
    """

    name: ClassVar = "map"
    version: ClassVar = "1"

    columns: dict[str, str] = Field(default_factory=dict)
    drop: Names = ()
    rename: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def changes_something(self) -> Self:
        if not (self.columns or self.drop or self.rename):
            raise ValueError("map needs columns (name: SQL expression), drop (names) or rename (old: new)")
        if ours := sorted({*self.columns, *self.drop, *self.rename, *self.rename.values()} & {*OURS}):
            raise ValueError(f"map cannot change {', '.join(ours)}: rows are known and followed by them")
        return self

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        mapped, dropped = self.compute_columns(frame) if self.columns else (frame, [])
        check_columns("stage map, drop", self.drop, mapped.columns)
        left = mapped.drop(self.drop)
        check_columns("stage map, rename", self.rename, left.columns)
        names = [self.rename.get(name, name) for name in left.columns]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"stage map, rename: there would be two columns {doubled[0]!r}; drop one, or rename it, too"
            )
        return left.rename(self.rename), dropped

    def compute_columns(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Dropped]]:
        computed = compute_on(frame, self.columns)
        values = pl.DataFrame(computed.values)
        faults: dict[int, str] = {}
        for name, rows in computed.failed.items():
            faults |= {row: f"{name}: {computed.faults[name]}" for row in rows if row not in faults}
        mapped = frame.with_columns(values.get_columns())
        if not faults:
            return mapped, []
        failed = sorted(faults)
        dropped = drops(frame["id"].gather(failed), "not_computed", [faults[row] for row in failed])
        kept = pl.repeat(True, frame.height, eager=True).scatter(failed, False)
        return mapped.filter(kept), dropped


class Explode(TableStage):
    """Rows -> a row for each element of a list column, in place of the list. Their ids are those of children, by place,
    their `parent_id` is the row's. A row with an empty list, or none, is dropped as `empty_list`.
    """

    name: ClassVar = "explode"
    version: ClassVar = "1"

    column: str

    def columns_read(self) -> Sequence[str]:
        return (self.column,)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        kind = frame.schema[self.column]
        if isinstance(kind, pl.Array) or kind == pl.Null:
            frame = frame.with_columns(pl.col(self.column).cast(pl.List(getattr(kind, "inner", pl.Null))))
        elif not isinstance(kind, pl.List) or self.column in OURS:
            raise InputError(f"stage explode: the column {self.column!r} holds {kind}; expected a list")
        lengths = frame[self.column].list.len().fill_null(0)
        full, empty = frame.filter(lengths > 0), frame["id"].filter(lengths == 0)
        places = full.select("id", place=pl.int_ranges(pl.col(self.column).list.len())).explode("place")
        ids = [child_id(row_id, place) for row_id, place in places.iter_rows()]
        rows = full.explode(self.column).with_columns(parent_id=pl.col("id"), id=pl.Series(ids, dtype=pl.String))
        first = ["id", "parent_id"]
        return rows.select(*first, pl.exclude(first)), drops(empty, "empty_list", [self.column] * len(empty))


class Sort(WholeTableStage):
    """Rows -> the same, by one or several columns; rows without a value go last, equal ones keep their order."""

    name: ClassVar = "sort"
    version: ClassVar = "1"

    by: Names
    descending: bool = False

    def columns_read(self) -> Sequence[str]:
        return self.by

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        by = [pl.col(name).fill_nan(None) if frame.schema[name].is_float() else pl.col(name) for name in self.by]
        return frame.sort(by, descending=self.descending, nulls_last=True, maintain_order=True), []
