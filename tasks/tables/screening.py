"""Stages that screen rows of any columns: against each other, and against benchmarks."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, read_artifact, read_manifest
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.dedup.contamination import ADDED as CONTAMINATION_ADDED
from synthmill.tasks.dedup.contamination import Benchmarks, DroppedContamination, turns_of
from synthmill.tasks.dedup.duplicates import ADDED as DUPLICATES_ADDED
from synthmill.tasks.dedup.duplicates import DroppedDuplicates
from synthmill.tasks.frames import Artifact, NamedArtifacts, StageContext
from synthmill.tasks.vectors.stage import Vectors, vectors_in

Found = Literal["drop", "mark"]
VERDICTS = pa.schema(
    [
        ("kept", pa.bool_()),
        ("duplicate_of", pa.large_string()),
        ("similarity", pa.float64()),
        ("layer", pa.large_string()),
    ]
)
DUPLICATE = ~pl.col("kept") & pl.col("layer").is_not_null()
"""Of a row's verdict; a row that took no part has no layer."""


class DuplicateRows(DroppedDuplicates):
    """Rows of any columns -> the same without duplicates, which are dropped as `duplicate`, with the row that stays and
    their similarity; or, with found=mark, with a verdict each (as Duplicates). A row whose column `kept` is false, by
    an earlier mark, takes no part and stays as it is.

    vectors: those of the same rows, by the stage `vectors`; the layer `meaning` needs them.
    """

    name: ClassVar = "duplicates"
    version: ClassVar = "1"
    adds_own_columns: ClassVar = True

    found: Found = "drop"

    def others(self) -> tuple[Artifact, ...]:
        return (*self.against, *([(Vectors.name, self.vectors)] if "meaning" in self.layers else []))

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        self.check(columns)
        if self.found == "drop":
            return columns
        return pa.schema([*(field for field in columns if field.name not in DUPLICATES_ADDED), *VERDICTS])

    def check(self, columns: pa.Schema) -> None:
        """Raises InputError where settings and columns do not go together."""
        named = (self.score, self.provenance)
        check_columns("stage duplicates", [*self.columns, *self.within, *filter(None, named)], columns.names)
        if "kept" in columns.names and columns.field("kept").type not in (pa.bool_(), pa.null()):
            raise InputError(
                f"stage duplicates: the column kept holds {columns.field('kept').type}; expected true or false (which "
                "rows take part): rename yours with the stage map"
            )
        if "meaning" in self.layers and not self.vectors:
            raise InputError("stage duplicates: the layer meaning needs vectors: name a step of the stage vectors")

    def narrow(self, rows: RowStream) -> pl.DataFrame:
        self.check(pl.DataFrame(schema=rows.schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema)
        return super().narrow(rows)

    def mark(self, narrow: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        if "meaning" in self.layers and len(vectors_in(Store(context.store), self.vectors)) != narrow.height:
            raise InputError(
                "stage duplicates: its vectors are those of other rows; expected a step `vectors` with the same source"
            )
        return super().mark(narrow, context)

    def marked(self, rows: pl.DataFrame, marks: pl.DataFrame) -> pl.DataFrame:
        return super().marked(rows, marks) if self.found == "mark" else rows

    def finish(self, verdicts: pl.DataFrame, gone: pl.Expr = DUPLICATE) -> tuple[pl.DataFrame, list[Dropped]]:
        return (verdicts.drop("id"), []) if self.found == "mark" else super().finish(verdicts, gone)


class ContaminatedRows(DroppedContamination):
    """Rows of any columns -> the same without those that match a benchmark, which are dropped as `contaminated` with
    the evidence; or, with found=mark, with `contaminated`, `benchmark`, `matched_id` and `evidence`.

    benchmarks: (id, stage, key) of artifacts: known prompts, or tables whose texts stand in `benchmark_columns`.
    columns and benchmark_columns: of texts, lists of texts, or messages; each text counts by itself.
    """

    name: ClassVar = "contamination"
    version: ClassVar = "1"
    adds_own_columns: ClassVar = True

    benchmarks: NamedArtifacts = Field(min_length=1)  # type: ignore[assignment]
    benchmark_columns: tuple[str, ...] = ("prompt",)

    @property
    def embeds(self) -> bool:  # type: ignore[override]
        return "meaning" in self.layers

    def others(self) -> tuple[Artifact, ...]:
        return tuple((stage, key) for _, stage, key in self.benchmarks)

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        check_columns("stage contamination", self.columns, columns.names)
        if self.found == "drop":
            return columns
        kinds = (pa.bool_(), pa.large_string(), pa.large_string(), pa.large_string())
        added = [pa.field(name, kind) for name, kind in zip(CONTAMINATION_ADDED, kinds, strict=True)]
        return pa.schema([*(field for field in columns if field.name not in CONTAMINATION_ADDED), *added])

    def columns_beside(self, columns: pa.Schema, others: Sequence[pa.Schema]) -> pa.Schema:
        for (step, stage, _), schema in zip(self.benchmarks, others, strict=True):
            if stage != KNOWN_PROMPTS.stage:
                asked_by = f"stage contamination, benchmark_columns of {step}"
                check_columns(asked_by, self.benchmark_columns, schema.names)
        return self.output_columns(columns)

    def open(self, store: Path) -> Benchmarks:
        manifests = (read_manifest(Store(store).manifest_path(*artifact)) for artifact in self.others())
        contents = tuple(manifest.content for manifest in manifests)
        return open_tables(store, self.benchmarks, contents, self.benchmark_columns, self.layers, self.embedder)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        check_columns("stage contamination", self.columns, frame.columns)
        screened, dropped = super().apply(frame.select("id", *dict.fromkeys(self.columns)), store)
        if self.found == "drop":
            return frame.filter(~pl.col("id").is_in([row.id for row in dropped])), dropped
        return frame.drop(*CONTAMINATION_ADDED, strict=False).with_columns(screened.select(CONTAMINATION_ADDED)), []


@lru_cache(maxsize=1)
def open_tables(
    root: Path,
    benchmarks: tuple[tuple[str, str, str], ...],
    contents: tuple[str, ...],
    columns: tuple[str, ...],
    layers: tuple[str, ...],
    embedder: str,
) -> Benchmarks:
    """Benchmarks in artifacts of any stage; contents: what they hold, which a key does not say of a step's rows."""
    return Benchmarks(root, pl.concat([turns_in(Store(root), *each, columns) for each in benchmarks]), layers, embedder)


def turns_in(store: Store, step: str, stage: str, key: str, columns: Sequence[str]) -> pl.DataFrame:
    """The texts of a benchmark's rows: benchmark, name, turns."""
    rows = pl.DataFrame(read_artifact(store, read_manifest(store.manifest_path(stage, key))))
    if stage == KNOWN_PROMPTS.stage:
        return rows.select(pl.lit(step).alias("benchmark"), "name", "turns").explode("turns")
    check_columns(f"stage contamination, benchmark_columns of {step}", columns, rows.columns)
    texts, places = turns_of(rows, columns)
    return pl.DataFrame({"name": rows["id"].gather(places), "turns": texts}).select(
        pl.lit(step).alias("benchmark"), "name", pl.col("turns").cast(pl.String)
    )
