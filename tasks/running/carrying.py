"""Columns that a stage neither reads nor makes go on with its rows: those of the user's own."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from synthmill.schemas.rows import TableRow
from synthmill.storage.artifacts import CALLS
from synthmill.tasks.frames import FileStage, FrameStage
from synthmill.tasks.recipe import AnyRecipe, Recipe

PLACES = frozenset(("id", "parent_id", CALLS))
"""Columns that say which row it is; every stage makes its own."""


def carry(table: pa.Table, output: pa.Table, names: Sequence[str]) -> pa.Table:
    """`output` with the columns `names` of the rows of `table` that led to its rows: a row's own before, by `id`, or
    its parent's, by `parent_id`. Names that are not in `table`, or that the stage made, are left out.
    """
    wanted = [name for name in names if name in table.column_names and name not in output.column_names]
    if not wanted:
        return output
    ids = table["id"].combine_chunks()
    places = pc.index_in(output["id"], ids)
    if "parent_id" in output.column_names:
        places = pc.coalesce(places, pc.index_in(output["parent_id"], ids))
    for name in wanted:
        output = output.append_column(table.schema.field(name), table[name].take(places))
    return output


def carried_from(table: pa.Schema) -> frozenset[str]:
    """Which columns of a source that is a table of the user's go on with its rows: all of them."""
    return frozenset(table.names) - PLACES


def carries_of(carried: frozenset[str], stage: AnyRecipe | FrameStage, columns_in: pa.Schema) -> list[str]:
    """What `Planned(carries=...)` gets: columns that are to go on, and that the stage itself does not hand on."""
    if isinstance(stage, FileStage):
        return []
    return sorted(carried - set(stage.output_columns(columns_in).names))


def carried_after(carried: frozenset[str], stage: AnyRecipe | FrameStage, columns_in: pa.Schema) -> frozenset[str]:
    """Which columns go on with the rows that a stage makes of rows with `columns_in`, of which `carried` go on.

    Rows that stay the user's keep all of their columns, and what a stage adds to them becomes one of these. A stage
    that makes rows of its own (of a fixed type, or frames with an `id` of theirs) hands on what was carried, but for
    columns that it makes: these are its own, and no key of a later stage holds their names.
    """
    if isinstance(stage, FileStage):
        return frozenset()
    made = frozenset(stage.output_columns(columns_in).names) - PLACES
    if isinstance(stage, Recipe):
        if issubclass(stage.makes, TableRow):
            return carried | (made - frozenset(columns_in.names))
        return carried - made
    if "id" in stage.adds:
        return carried - frozenset(stage.adds)
    is_table = frozenset(columns_in.names) - PLACES <= carried
    return carried | made if is_table else carried


def columns_after(stage: AnyRecipe | FrameStage, columns_in: pa.Schema, carries: Sequence[str]) -> pa.Schema:
    """The columns of the rows that a stage makes, with those that it carries."""
    made = stage.output_columns(columns_in)
    return pa.schema([*made, *(columns_in.field(name) for name in carries if name in columns_in.names)])
