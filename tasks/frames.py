"""Frame stages: work on whole tables, with polars, never row by row and never asking a model.

One that works part by part (`whole = False`: a scorer, a cut within a pool) runs in parallel like a recipe. One that
needs every row (`whole = True`: duplicates) runs once over all parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl
import pyarrow as pa

from schemas.artifacts import Manifest
from schemas.calls import Frozen
from schemas.errors import InputError
from schemas.rows import Dropped
from storage.artifacts import Store
from tasks.cores import Spread


class Around(NamedTuple):
    """What a stage over the whole set has around it: the store, the workers, and a place for what it has to say of
    what it did (JSON-like), which goes into the manifest.
    """

    store: Path
    spread: Spread
    notes: dict[str, Any]


class FrameStage(Frozen):
    """Settings (the fields) and `apply`. Raise `version` when the output changes meaning."""

    name: ClassVar[str]
    version: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("id",)
    """The columns it reads."""
    adds: ClassVar[tuple[str, ...]] = ()
    """The columns it brings, beside those it was given or instead of them."""
    whole: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    """Whether it loads a model of its own, for which the engines make room."""

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        """(frame to keep, rows that could not be made): every id comes out as an id, a parent_id or a drop."""
        raise TypeError(f"{type(self).__name__} must define apply(frame, store)")

    def apply_around(self, frame: pl.DataFrame, around: Around) -> tuple[pl.DataFrame, list[Dropped]]:
        """`apply`, for a `whole` stage that has work for workers, or something to say."""
        return self.apply(frame, around.store)

    def parts_begin(self, made: pa.Table) -> list[int]:
        """The rows at which the parts of what a `whole` stage made begin; one part, unless it says otherwise."""
        return [0]

    def rows_per_row(self) -> int:
        """The most rows one row becomes: for plans, never for limits."""
        return 1

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Everything that decides what this stage makes of its input."""
        return {"stage": self.name, "version": self.version, "settings": self.model_dump(mode="json")}

    def run_on(self, table: pa.Table, around: Around) -> tuple[pa.Table, list[Dropped]]:
        """`apply` on an Arrow table. Raises InputError when a column it needs is missing."""
        if missing := [name for name in self.needs if name not in table.column_names]:
            raise InputError(
                f"stage {self.name} needs the columns {', '.join(missing)}; found {', '.join(table.column_names)}"
            )
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        kept, dropped = self.apply_around(frame, around)
        return kept.to_arrow(compat_level=pl.CompatLevel.oldest()), dropped


class FileStage(FrameStage):
    """One that makes files, an index for instance, of a whole artifact; its only row says which."""

    whole: ClassVar[bool] = True

    def build(self, store: Store, source: Manifest, folder: Path, tell: Callable[[int], None], spread: Spread) -> None:
        """Write the files into `folder`, the same for the same source; tell: how many rows are done."""
        raise TypeError(f"{type(self).__name__} must define build(store, source, folder, tell, spread)")


def here(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Spreads work over nobody else: one job after the other, in this process."""
    return (work(*job) for job in jobs)


def even_parts(made: pa.Table, rows_per_part: int) -> list[int]:
    """Where parts of so many rows begin; one, if there is no row."""
    return list(range(0, max(1, made.num_rows), rows_per_part))
