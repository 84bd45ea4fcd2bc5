"""Frame stages: work on whole tables, with polars, never row by row and never asking a model.

One that works part by part (`whole = False`: a scorer, a cut within a pool) runs in parallel like a recipe. One that
needs every row (`whole = True`: duplicates) runs once over all parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import polars as pl
import pyarrow as pa
from pydantic import GetCoreSchemaHandler
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped, Row, arrow_schema
from synthmill.storage.artifacts import Store
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.cores import MapUnordered


class StageContext(NamedTuple):
    """What a stage over the whole set may use: the store, the workers, and notes (JSON-like) for its manifest."""

    store: Path
    map_unordered: MapUnordered
    notes: dict[str, Any]


class RunContext(NamedTuple):
    """What a run's settings fill in where a stage leaves it open."""

    embedder: str = ""


Artifact = tuple[str, str]
"""An artifact by its stage's name and its key."""


@dataclass(frozen=True)
class ArtifactId:
    """An artifact that a plan knows: its stage's name, its key, and the id of its step or source."""

    stage: str
    key: str
    step: str


@dataclass(frozen=True)
class Reference:
    """Marks a setting of a stage that names other artifacts: a pipeline writes ids of steps or sources there. `form`
    says what the stage gets: a `key`, an `artifact`, several `artifacts`, `named` keys (id, key), or `named_artifacts`
    (id, stage, key). Whatever has the attributes of an ArtifactId may stand there, too.
    """

    form: Literal["key", "artifact", "artifacts", "named", "named_artifacts"]

    def read(self, value: Any) -> Any:
        """What the setting holds for one or several ArtifactIds; anything else as it is."""
        if self.form in ("artifacts", "named", "named_artifacts"):
            values = value if isinstance(value, list | tuple) else [value]
            return tuple(self.read_one(each) for each in values)
        return self.read_one(value)

    def read_one(self, value: Any) -> Any:
        if not hasattr(value, "key"):
            return value
        forms = {
            "key": value.key,
            "named": (value.step, value.key),
            "named_artifacts": (value.step, value.stage, value.key),
        }
        return forms.get(self.form, (value.stage, value.key))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self.read, handler(source))


ArtifactKey = Annotated[str, Reference("key")]
OneArtifact = Annotated[Artifact, Reference("artifact")]
Artifacts = Annotated[tuple[Artifact, ...], Reference("artifacts")]
NamedKeys = Annotated[tuple[tuple[str, str], ...], Reference("named")]
NamedArtifacts = Annotated[tuple[tuple[str, str, str], ...], Reference("named_artifacts")]


class FrameStage(Frozen):
    """Settings (the fields) and `apply`. Raise `version` when the output changes meaning."""

    name: ClassVar[str]
    """What a step of a pipeline calls it: a word in snake_case."""
    version: ClassVar[str]
    """Of what it makes."""
    needs: ClassVar[tuple[str, ...]] = ("id",)
    """The columns it reads."""
    adds: ClassVar[tuple[str, ...]] = ()
    """The columns it adds or replaces."""
    adds_own_columns: ClassVar[bool] = False
    """Whether its new columns are the user's own, and go on with the rows through later stages."""
    whole: ClassVar[bool] = False
    """Whether it sees all rows at once, not a part of them."""
    embeds: ClassVar[bool] = False
    """Whether it loads a model of its own; the engines free their memory for it."""
    infers_columns: ClassVar[bool] = False
    """Whether a column's type depends on the rows of a part; the parts are brought to the same types then."""

    def bound(self, context: RunContext) -> Self:
        """The stage as it runs: what the run's settings fill in is there, and what identifies it."""
        return self

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError where it cannot work on rows with these columns."""

    def prerequisites(self) -> Mapping[str, "FrameStage"]:
        """Stages that have to run on the same rows first: a setting that is open -> the stage whose key it takes."""
        return {}

    def others(self) -> tuple[Artifact, ...]:
        """The artifacts whose rows it reads beside its source: when they change, it is made again."""
        return ()

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        """The columns of its rows, made from rows with `columns`; null where a type is not known before. One that adds
        `id` makes rows of its own; any other keeps the columns it gets.
        """
        kept = [] if "id" in self.adds else [field for field in columns if field.name not in self.adds]
        return pa.schema([*kept, *(pa.field(name, pa.null()) for name in self.adds)])

    def columns_beside(self, columns: pa.Schema, others: Sequence[pa.Schema]) -> pa.Schema:
        """As output_columns, where the columns of `others()` are known, in their order."""
        return self.output_columns(columns)

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

    def check_needs(self, names: Sequence[str]) -> None:
        """Raises InputError when a column it needs is missing."""
        if missing := [name for name in self.needs if name not in names]:
            raise InputError(f"stage {self.name} needs the columns {', '.join(missing)}; found {', '.join(names)}")

    def run_on(self, table: pa.Table, context: StageContext) -> tuple[pa.Table, list[Dropped]]:
        """`apply` on an Arrow table. Raises as check_needs."""
        self.check_needs(table.column_names)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        kept, dropped = self.apply_in_context(frame, context)
        return kept.to_arrow(compat_level=pl.CompatLevel.oldest()), dropped


class MarkingStage(FrameStage):
    """A stage over the whole set that adds columns to rows, or drops rows, and looks at a few of their columns for it.
    Only these are in memory; the rows themselves go from the parts it reads to those it makes, batch by batch.
    """

    whole: ClassVar[bool] = True

    def narrow(self, rows: RowStream) -> pl.DataFrame:
        """What `mark` needs of every row, in order."""
        raise TypeError(f"{type(self).__name__} must define narrow(rows)")

    def mark(self, narrow: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        """Returns (the `place` of each row that stays, ascending, and the columns that it gets; dropped rows)."""
        raise TypeError(f"{type(self).__name__} must define mark(narrow, context)")

    def marked(self, rows: pl.DataFrame, marks: pl.DataFrame) -> pl.DataFrame:
        """Some rows that stay with the columns that they get."""
        return rows.with_columns(marks.get_columns())

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return self.apply_in_context(frame, StageContext(store, run_locally, {}))

    def apply_in_context(self, frame: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        marks, dropped = self.mark(self.narrow(RowStream.of(frame)), context)
        return self.marked(frame[marks["place"]], marks.drop("place")), dropped


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


def frame_schema(model: type[Row], thinking: bool = False) -> pl.Schema:
    """A row type's columns as polars has them; thinking: with its fields of thinking."""
    return pl.DataFrame(arrow_schema(model, thinking).empty_table()).schema


def even_parts(table: pa.Table, rows_per_part: int) -> list[int]:
    """The first row of each part of `rows_per_part` rows; one part for an empty table."""
    return list(range(0, max(1, table.num_rows), rows_per_part))
