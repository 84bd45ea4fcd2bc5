"""Columns that a stage neither reads nor makes go on with its rows: those of the user's own."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from synthmill.storage.artifacts import CALLS
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.recipe import AnyRecipe
from synthmill.tasks.texts.thinking import THINKING_SUFFIX


def carry(table: pa.Table, output: pa.Table, names: Sequence[str]) -> pa.Table:
    """`output` with the columns `names` of the rows of `table` that led to its rows: a row's own before, by `id`, or
    its parent's, by `parent_id`. Names that are not in `table`, or that the stage made, are left out. Columns of what
    was thought before answers go along: which there are, no plan knows.
    """
    thinking = [name for name in table.column_names if name.endswith(THINKING_SUFFIX)] if names else []
    wanted = [
        name
        for name in dict.fromkeys([*names, *thinking])
        if name in table.column_names and name not in output.column_names
    ]
    if not wanted:
        return output
    ids = table["id"].combine_chunks()
    places = pc.index_in(output["id"], ids)
    if "parent_id" in output.column_names:
        places = pc.coalesce(places, pc.index_in(output["parent_id"], ids))
    for name in wanted:
        output = output.append_column(table.schema.field(name), table[name].take(places))
    return output


def carried_after(
    carried: frozenset[str], stage: AnyRecipe | FrameStage, columns: pa.Schema, output: pa.Schema
) -> frozenset[str]:
    """The columns that go on behind a stage: those that went on before, but for what its rows have of their own, and
    what it adds in the user's name. columns: of the rows it reads; output: of those it makes.
    """
    added = set(output.names) - set(columns.names) - {"id", "parent_id"}
    if stage.adds_own_columns:
        return (carried & set(output.names) if isinstance(stage, FrameStage) else carried) | added
    keeps = isinstance(stage, FrameStage) and "id" not in stage.adds
    return carried - (added if keeps else set(output.names))


def carried_by(
    carried: frozenset[str], stage: AnyRecipe | FrameStage, columns: pa.Schema, output: pa.Schema
) -> set[str]:
    """The columns that go on beside those that a stage makes; one that adds the user's own columns keeps, if it works
    on whole frames, what the user wants, and, if it asks, all.
    """
    if stage.adds_own_columns and isinstance(stage, FrameStage):
        return set()
    keeps_all = not isinstance(stage, FrameStage) and stage.keeps_columns
    return set(columns.names if keeps_all else carried) - {"id", "parent_id", CALLS, *output.names}
