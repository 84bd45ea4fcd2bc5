"""What stages on tables share: their columns are checked, and known, before anything is made."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import polars as pl
import pyarrow as pa
from pydantic import BeforeValidator, Field

from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import CALLS
from synthmill.storage.expressions import Computed, compute, needed_columns
from synthmill.tasks.frames import FrameStage, StageContext, even_parts, run_locally

OURS = ("id", "parent_id", CALLS)
"""Columns that say what a row is and where it comes from; no stage of this room lets a user set them."""
LONGEST_DETAIL = 500  # characters
POLARS_FAULTS = (pl.exceptions.PolarsError, pa.ArrowException)

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One name, or several."""


class TableStage(FrameStage):
    """A stage on rows of any columns, part by part. Its output's columns are those that it makes of a table without
    rows, so a wrong name or type is an InputError when it is planned.
    """

    adds_own_columns: ClassVar = True

    def columns_read(self) -> Sequence[str]:
        """The columns that its settings name."""
        return ()

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        output, _ = self.run_on(columns.empty_table(), StageContext(Path(), run_locally, {}))
        return output.schema

    def run_on(self, table: pa.Table, context: StageContext) -> tuple[pa.Table, list[Dropped]]:
        """As FrameStage.run_on. Raises InputError for a column that is not there, or cannot be used so."""
        check_columns(f"stage {self.name}", self.columns_read(), table.column_names)
        try:
            return super().run_on(table, context)
        except POLARS_FAULTS as error:
            raise InputError(f"stage {self.name} cannot use these columns: {str(error)[:LONGEST_DETAIL]}") from error


class WholeTableStage(TableStage):
    """A stage on all rows at once; its output is divided again."""

    whole: ClassVar = True

    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)


def drops(ids: Iterable[str], reason: str, details: Iterable[str]) -> list[Dropped]:
    """One drop for each id, with its detail."""
    pairs = zip(ids, details, strict=True)
    return [Dropped(id=row_id, reason=reason, detail=detail[:LONGEST_DETAIL]) for row_id, detail in pairs]


def compute_on(frame: pl.DataFrame, expressions: Mapping[str, str]) -> Computed:
    """The values of SQL expressions for every row; only the columns that they read are handed over."""
    needed = needed_columns(expressions.values(), frame.columns)
    table = frame.select(list(dict.fromkeys(["id", *needed]))).to_arrow(compat_level=pl.CompatLevel.oldest())
    return compute(table, expressions)
