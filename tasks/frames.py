"""Frame stages: work on whole tables, with polars, never row by row and never asking a model.

One that works part by part (`whole = False`: a scorer, a cut within a pool) runs in parallel like a recipe. One that
needs every row (`whole = True`: duplicates) runs once over all parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import polars as pl
import pyarrow as pa

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store
from synthmill.tasks.cores import MapUnordered


class StageContext(NamedTuple):
    """What a stage over the whole set may use: the store, the workers, and notes (JSON-like) for its manifest."""

    store: Path
    map_unordered: MapUnordered
    notes: dict[str, Any]


class RunContext(NamedTuple):
    """What a run's settings fill in where a stage leaves it open."""

    embedder: str = ""


class FrameStage(Frozen):
    """Settings (the fields) and `apply`. Raise `version` when the output changes meaning."""

    name: ClassVar[str]
    version: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("id",)
    """The columns it reads."""
    adds: ClassVar[tuple[str, ...]] = ()
    """The columns it adds or replaces."""
    whole: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    """Whether it loads a model of its own; the engines free their memory for it."""

    def bound(self, context: RunContext) -> Self:
        """The stage as it runs: what the run's settings fill in is there, and what identifies it."""
        return self

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        """Returns (frame to keep, dropped rows); every id comes out as an id, a parent_id or a drop."""
        raise TypeError(f"{type(self).__name__} must define apply(frame, store)")

    def apply_in_context(self, frame: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        """`apply`, for a `whole` stage that has work for workers, or notes for the manifest."""
        return self.apply(frame, context.store)

    def parts_begin(self, table: pa.Table) -> list[int]:
        """The first row of each part of a `whole` stage's output; one part by default."""
        return [0]

    def rows_per_row(self) -> int:
        """The most rows one row becomes: for plans, never for limits."""
        return 1

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Everything that decides what this stage makes of its input."""
        return {"stage": self.name, "version": self.version, "settings": self.model_dump(mode="json")}

    def run_on(self, table: pa.Table, context: StageContext) -> tuple[pa.Table, list[Dropped]]:
        """`apply` on an Arrow table. Raises InputError when a column it needs is missing."""
        if missing := [name for name in self.needs if name not in table.column_names]:
            raise InputError(
                f"stage {self.name} needs the columns {', '.join(missing)}; found {', '.join(table.column_names)}"
            )
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        kept, dropped = self.apply_in_context(frame, context)
        return kept.to_arrow(compat_level=pl.CompatLevel.oldest()), dropped


class FileStage(FrameStage):
    """A stage that writes files, an index for instance, from a whole artifact; its only row names that artifact."""

    whole: ClassVar[bool] = True

    def build(
        self,
        store: Store,
        source: Manifest,
        folder: Path,
        tell: Callable[[int], None],
        map_unordered: MapUnordered,
    ) -> None:
        """Write the files into `folder`, the same for the same source. tell: takes the number of rows done."""
        raise TypeError(f"{type(self).__name__} must define build(store, source, folder, tell, map_unordered)")


def run_locally(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """A MapUnordered without workers: one job after the other, in this process."""
    return (work(*job) for job in jobs)


def even_parts(table: pa.Table, rows_per_part: int) -> list[int]:
    """The first row of each part of `rows_per_part` rows; one part for an empty table."""
    return list(range(0, max(1, table.num_rows), rows_per_part))
