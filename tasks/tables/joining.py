"""Stages that bring rows of several steps together."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
import pyarrow as pa
from pydantic import ConfigDict, Field

from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, read_artifact, read_manifest
from synthmill.tasks.frames import Artifact, Artifacts, OneArtifact
from synthmill.tasks.tables.table_stage import OURS, POLARS_FAULTS, WholeTableStage, drops


class Join(WholeTableStage):
    """Rows -> the same with columns of the row of another step (`with`) that is equal to it in `on`: the id, a column,
    or {column: the other's column}. Null is equal to nothing.

    how: `left` keeps rows without a partner, with nulls; `inner` drops them as `no_partner`. columns: which of the
    other's to take; by default all but ids and those compared. A name that is there already gets `suffix`. A row with
    several partners is an error, because one row must stay one row, unless `many` is `first`: then the other's first
    counts.
    """

    model_config = ConfigDict(populate_by_name=True)
    name: ClassVar = "join"
    version: ClassVar = "1"

    other: OneArtifact = Field(alias="with")
    on: str | dict[str, str] = "id"
    how: Literal["left", "inner"] = "left"
    columns: tuple[str, ...] = ()
    suffix: str = Field("_other", min_length=1)
    many: Literal["refuse", "first"] = "refuse"

    @property
    def pairs(self) -> dict[str, str]:
        """Column -> the other's column that it must be equal to."""
        return {self.on: self.on} if isinstance(self.on, str) else self.on

    def others(self) -> tuple[Artifact, ...]:
        return (self.other,)

    def columns_read(self) -> Sequence[str]:
        return tuple(self.pairs)

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        """Without the other's columns, only the names of `columns` are known."""
        check_columns("stage join, on", self.pairs, columns.names)
        added = self.added_names(self.columns, columns.names)
        return pa.schema([*columns, *(pa.field(name, pa.null()) for name in added.values())])

    def columns_beside(self, columns: pa.Schema, others: Sequence[pa.Schema]) -> pa.Schema:
        check_columns("stage join, on", self.pairs, columns.names)
        [right] = others
        joined, _ = self.join(frame_of(columns.empty_table()), frame_of(right.empty_table()))
        return joined.to_arrow(compat_level=pl.CompatLevel.oldest()).schema

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return self.join(frame, read_rows_of(Store(store), self.other))

    def added_names(self, taken: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
        """The other's column -> its name beside `columns`. Raises InputError where even that is there."""
        names = {name: f"{name}{self.suffix}" if name in columns else name for name in taken}
        if clash := sorted({*names.values()} & {*columns}):
            raise InputError(f"stage join: there is a column {clash[0]!r} already; choose another suffix")
        return names

    def join(self, frame: pl.DataFrame, other: pl.DataFrame) -> tuple[pl.DataFrame, list[Dropped]]:
        check_columns("stage join, columns of the other step", (*self.pairs.values(), *self.columns), other.columns)
        taken = self.columns or [name for name in other.columns if name not in (*OURS, *self.pairs.values())]
        names = self.added_names(taken, frame.columns)
        keys = {column: f"\0key {column}" for column in self.pairs.values()}
        partners = other.select(
            *(pl.col(name).alias(key) for name, key in keys.items()),
            *(pl.col(name).alias(added) for name, added in names.items()),
            pl.lit(True).alias("\0partner"),
        )
        first = partners.unique(keys.values(), keep="first", maintain_order=True)
        left, right = list(self.pairs), [keys[column] for column in self.pairs.values()]
        try:
            if self.many == "refuse" and first.height < partners.height:
                self.refuse_many(frame.join(partners, left_on=left, right_on=right))
            joined = frame.join(first, left_on=left, right_on=right, how="left", maintain_order="left")
        except POLARS_FAULTS as error:
            kinds = ", ".join(f"{a} ({frame.schema[a]}) and {b} ({other.schema[b]})" for a, b in self.pairs.items())
            raise InputError(f"stage join cannot compare {kinds}; make them one type with the stage map") from error
        if self.how == "left":
            return joined.drop("\0partner"), []
        alone = joined["\0partner"].is_null()
        ids = joined["id"].filter(alone)
        details = [f"none is equal in {', '.join(left)}"] * len(ids)
        return joined.filter(~alone).drop("\0partner"), drops(ids, "no_partner", details)

    def refuse_many(self, joined: pl.DataFrame) -> None:
        """Raises InputError for a row that has several partners."""
        counts = joined.group_by("id", maintain_order=True).len().filter(pl.col("len") > 1)
        if counts.height:
            row_id, partners = counts.row(0)
            raise InputError(
                f"stage join: {counts.height} rows have several partners, the first {row_id} ({partners}); expected "
                "one each: compare more columns (on), or write many: first to take the other step's first"
            )


class Concat(WholeTableStage):
    """Rows -> the same, followed by the rows of other steps (`with`), with the columns of all; null where a step lacks
    one. A row of another step gets a child's id, and its own as `parent_id`, so that no id is there twice.
    """

    model_config = ConfigDict(populate_by_name=True)
    name: ClassVar = "concat"
    version: ClassVar = "1"

    further: Artifacts = Field(alias="with", min_length=1)

    def others(self) -> tuple[Artifact, ...]:
        return self.further

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        """Without the others' columns, only its own are known, and that there is a parent_id."""
        return self.columns_beside(columns, [columns] * len(self.further))

    def columns_beside(self, columns: pa.Schema, others: Sequence[pa.Schema]) -> pa.Schema:
        tables = [frame_of(schema.empty_table()) for schema in (columns, *others)]
        return unified([tables[0], *(with_child_ids(table, n, set()) for n, table in enumerate(tables[1:]))]).schema

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        frames, ids = [frame], set(frame["id"])
        for number, artifact in enumerate(self.further):
            frames.append(with_child_ids(read_rows_of(Store(store), artifact), number, ids))
            ids.update(frames[-1]["id"])
        table = unified(frames)
        return frame_of(table), []


def with_child_ids(rows: pl.DataFrame, number: int, taken: set[str]) -> pl.DataFrame:
    """The rows of the step at a place of `with` as children of themselves; `taken`: ids that are there already."""
    place = f"concat/{number}"
    children = [child_id(row_id, place) for row_id in rows["id"]]
    while not taken.isdisjoint(children):  # these rows are there already, by an earlier concat
        place += "/again"
        children = [child_id(row_id, place) for row_id in rows["id"]]
    return rows.with_columns(parent_id=pl.col("id"), id=pl.Series(children, dtype=pl.String))


def unified(frames: Sequence[pl.DataFrame]) -> pa.Table:
    """The rows of all, with the columns of all, `id` and `parent_id` first. Raises InputError where types differ."""
    tables = [frame.to_arrow(compat_level=pl.CompatLevel.oldest()) for frame in frames]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"stage concat: a column has two types ({str(error)[:200]}); make them one with the stage map"
        ) from error
    first = ["id", "parent_id"]
    table = table.select([*first, *(name for name in table.column_names if name not in first)])
    parents = table["parent_id"].fill_null("")
    return table.set_column(1, "parent_id", parents)


def frame_of(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def read_rows_of(store: Store, artifact: Artifact) -> pl.DataFrame:
    return frame_of(read_artifact(store, read_manifest(store.manifest_path(*artifact))))
