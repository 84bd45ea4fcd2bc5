"""Columns of pools, in Arrow: what a Parquet file has as texts and numbers, and lists that belong together."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError
from storage.plain_files.pool_rows import ENDS, MESSAGES

TEXT = pa.string()
PLAIN = ("prompt_id", "prompt", "system", "reference", MESSAGES)
"""Columns with one text per pool."""


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def says_ends(kind: pa.DataType, wide: bool) -> bool:
    """Whether a column of this type says of each answer how it ended."""
    if is_list(kind) != wide:
        return False
    kind = kind.value_type if wide else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def plain(column: Any, name: str, wide: bool, theirs: str) -> Any:
    """A Parquet column as texts, numbers, or lists of these. Raises InputError for what is neither."""
    listed = wide and name not in PLAIN
    numbers = name not in (*PLAIN, "answers", ENDS)
    kind = pa.float64() if numbers else TEXT
    wanted = pa.list_(kind) if listed else kind
    try:
        values = column.flatten() if listed else column
        if pa.types.is_struct(values.type):
            fields = {field.name for field in values.type}
            values = pc.struct_field(values, "text" if "text" in fields else "content")
        values = values.cast(kind)
        if numbers and not pc.all(pc.is_finite(values)).as_py():
            values = pc.if_else(pc.is_finite(values), values, None)
        return as_lists(column, values) if listed else values
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, AttributeError) as error:
        raise InputError(f"the column {theirs!r} holds {column.type}; expected {wanted}") from error


def in_one(column: Any) -> Any:
    """A column as one array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_lists(lists: Any, values: Any) -> Any:
    """Other values in the same lists; a null list has none."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int32()), values)


def texts_only(pools: pa.Table) -> pa.Table:
    """What is no text becomes an empty one without a reward, so that its pool can give no pair."""
    answers = in_one(pools["answers"])
    flat = answers.flatten()
    if not flat.null_count:
        return pools
    columns = {name: pools[name] for name in pools.column_names}
    columns["answers"] = as_lists(answers, pc.fill_null(flat, ""))
    if "rewards" in columns:
        rewards = in_one(pools["rewards"])
        columns["rewards"] = as_lists(rewards, pc.if_else(pc.is_valid(flat), rewards.flatten(), None))
    return pa.table(columns)


def of_each_answer(values: Any, answers: Any) -> Any:
    """Lists of texts beside the answers'; nulls for a pool whose list has another length, which says nothing."""
    counts = [
        pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False) for lists in (values, answers)
    ]
    if (counts[0] == counts[1]).all():
        return values
    lists = values.to_pylist()
    return pa.array(
        [mine if len(mine or ()) == count else [None] * count for mine, count in zip(lists, counts[1], strict=True)],
        pa.list_(TEXT),
    )


def count(faults: Counter[str], reason: str, good: Any) -> None:
    """Add the rows where `good`, (rows,) bool, is false."""
    if bad := len(good) - (pc.sum(good).as_py() or 0):
        faults[reason] += bad


def firsts(ids: Sequence[str | None], seen: set[int]) -> list[bool]:
    """Per id, whether it comes for the first time; `seen` holds the hashes of those before."""
    first = []
    for name in ids:
        before = len(seen)
        seen.add(hash(name))
        first.append(name is not None and len(seen) > before)
    return first
