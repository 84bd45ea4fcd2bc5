"""Arrow columns of pools: cast from a Parquet file's columns, and checked for lists that belong together."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.pool_rows import BESIDE_ANSWERS, BESIDE_PROMPT, MESSAGES, in_json

TEXT = pa.string()
PLAIN = ("prompt_id", "prompt", "system", "reference", MESSAGES, *BESIDE_PROMPT)
"""Columns with one text per pool."""


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def holds_texts_beside(kind: pa.DataType, wide: bool) -> bool:
    """Whether a column of this type can hold a text for each answer."""
    if is_list(kind) != wide:
        return False
    kind = kind.value_type if wide else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def cast_column(column: Any, name: str, wide: bool, file_column: str) -> Any:
    """A Parquet column as texts, numbers, or lists of these; what a row says of its scoring may be of any type, and is
    JSON then. Raises InputError for what is neither.
    """
    if name in BESIDE_PROMPT and pa.types.is_nested(column.type):
        return pa.array([None if value is None else in_json(value) for value in column.to_pylist()], TEXT)
    has_lists = wide and name not in PLAIN
    numbers = name not in (*PLAIN, "answers", *BESIDE_ANSWERS)
    item_type = pa.float64() if numbers else TEXT
    expected = pa.list_(item_type) if has_lists else item_type
    try:
        values = column.flatten() if has_lists else column
        if pa.types.is_struct(values.type):
            fields = {field.name for field in values.type}
            values = pc.struct_field(values, "text" if "text" in fields else "content")
        values = values.cast(item_type)
        if numbers and not pc.all(pc.is_finite(values)).as_py():
            values = pc.if_else(pc.is_finite(values), values, None)
        return as_lists(column, values) if has_lists else values
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, AttributeError) as error:
        raise InputError(f"the column {file_column!r} holds {column.type}; expected {expected}") from error


def in_one(column: Any) -> Any:
    """A column as one array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_lists(lists: Any, values: Any) -> Any:
    """Put other values into lists of the same lengths; a null list becomes an empty one."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int32()), values)


def texts_only(pools: pa.Table) -> pa.Table:
    """Replace each null answer by an empty text, and its reward by null, so that its pool gives no pair."""
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


def align_with_answers(values: Any, answers: Any) -> Any:
    """Lists of texts, one text per answer; nulls for a pool whose list has another length than its answers."""
    lengths = [
        pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False) for lists in (values, answers)
    ]
    if (lengths[0] == lengths[1]).all():
        return values
    lists = values.to_pylist()
    return pa.array(
        [
            entry if len(entry or ()) == length else [None] * length
            for entry, length in zip(lists, lengths[1], strict=True)
        ],
        pa.list_(TEXT),
    )


def count_faults(faults: Counter[str], reason: str, good: Any) -> None:
    """Count the rows where `good`, (rows,) bool, is false, under a reason."""
    if bad := len(good) - (pc.sum(good).as_py() or 0):
        faults[reason] += bad


def first_occurrences(ids: Sequence[str | None], hashes: set[int]) -> list[bool]:
    """Per id, whether it comes for the first time; `hashes` holds those of earlier ids."""
    first = []
    for name in ids:
        count_before = len(hashes)
        hashes.add(hash(name))
        first.append(name is not None and len(hashes) > count_before)
    return first
