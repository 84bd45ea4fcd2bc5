"""Arrow types for what a user's function returns: as it declares them, as its input has them, or as the values are."""

import datetime
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import polars as pl
import pyarrow as pa
from pydantic import BaseModel

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import arrow_type

REFUSED = (pa.ArrowException, OverflowError, ValueError, TypeError)
"""What Arrow raises for values that have no type."""
SCALARS = {datetime.datetime: pa.timestamp("us"), datetime.date: pa.date32(), bytes: pa.binary()}


class Declared(dict[str, pa.DataType]):
    """The columns that a return annotation names. others: the type of every other new column, for `dict[str, int]`."""

    others: pa.DataType | None = None


def declared_columns(annotation: Any) -> Declared:
    """What a return annotation says of a row's columns: a TypedDict, a pydantic model, dict[str, TYPE]; nothing for
    any other. Raises TypeError for a type without an Arrow form.
    """
    declared = Declared()
    inner = without_none(annotation)
    if fields := fields_of(inner):
        declared.update({name: declared_type(each) for name, each in fields.items()})
    elif get_origin(inner) in (dict, Mapping) and get_args(inner)[1] not in (Any, object):
        declared.others = declared_type(get_args(inner)[1])
    return declared


def fields_of(annotation: Any) -> dict[str, Any]:
    """The fields of a TypedDict or a pydantic model, with their annotations."""
    if is_typeddict(annotation):
        return get_type_hints(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    return {}


def declared_type(annotation: Any) -> pa.DataType:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Required, NotRequired):
        return declared_type(arguments[0])
    if origin in (Union, types.UnionType):
        return declared_type(without_none(annotation))
    if origin in (list, tuple, Sequence):
        return pa.list_(declared_type(arguments[0]))
    if fields := fields_of(annotation):
        return pa.struct([pa.field(name, declared_type(each)) for name, each in fields.items()])
    if isinstance(annotation, type) and annotation in SCALARS:
        return SCALARS[annotation]
    return arrow_type(annotation)


def without_none(annotation: Any) -> Any:
    """`X` for `X | None`; any other annotation as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def table_of_rows(stage: str, table: pa.Table, rows: Sequence[Mapping[str, Any]], declared: Declared) -> pa.Table:
    """What a function made of the rows of `table`. Its columns come in the order of the table's, then of
    the declaration, then as the rows have them; a key that a row lacks is null there. Raises InputError for a column
    that has no type.
    """
    used = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in table.column_names if name in used or (not rows and name not in declared)]
    names += [name for name in (*declared, *used) if name not in names]
    columns = {}
    for name in names:
        before = table.schema.field(name).type if name in table.column_names else None
        values = [row.get(name) for row in rows]
        if name in declared:
            columns[name] = typed(stage, name, values, rows, declared[name])
        elif before is None and declared.others is not None:
            columns[name] = typed(stage, name, values, rows, declared.others)
        else:
            columns[name] = inferred(stage, name, values, rows, before)
    return pa.table(columns)


def typed(
    stage: str, name: str, values: Sequence[Any], rows: Sequence[Mapping[str, Any]], kind: pa.DataType
) -> pa.Array:
    """Values as a declared type. Raises InputError with the first row whose value is none."""
    try:
        return array_of(values, kind)
    except REFUSED:
        for row, value in zip(rows, values, strict=True):
            try:
                array_of([value], kind)
            except REFUSED:
                raise InputError(
                    f"stage {stage}: the row {row['id']} holds {value!r:.60} in the column {name}; its function "
                    f"declares {kind}"
                ) from None
        raise


def inferred(
    stage: str, name: str, values: Sequence[Any], rows: Sequence[Mapping[str, Any]], before: pa.DataType | None
) -> pa.Array:
    """Values as the type that their column had before, where nothing of them is lost so, else as what they are."""
    try:
        array = array_of(values)
    except REFUSED as error:
        raise InputError(f"stage {stage}: {no_type(name, values, rows, error)}") from None
    if before is None or before == array.type:
        return with_fields(stage, name, array)
    if not (pa.types.is_floating(array.type) and pa.types.is_integer(before)):
        try:
            same = array_of(values, before)
            if same.to_pylist() == list(values) or merges_into(array.type, before):
                return same
        except REFUSED:
            pass
    return with_fields(stage, name, array)


def merges_into(kind: pa.DataType, before: pa.DataType) -> bool:
    """Whether `before` holds all values of `kind`, for instance lists of strings an empty list."""
    try:
        schemas = [pa.schema([("column", each)]) for each in (before, kind)]
        return bool(pa.unify_schemas(schemas, promote_options="permissive").field(0).type == before)
    except pa.ArrowException:
        return False


def array_of(values: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Values as an Arrow array, pydantic models as dictionaries. A set is refused: its order is another in every
    process.
    """
    if any(isinstance(value, set | frozenset) for value in values):
        raise TypeError("a set has no order")
    return pa.array([value.model_dump() if isinstance(value, BaseModel) else value for value in values], kind)


def with_fields(stage: str, name: str, array: pa.Array) -> pa.Array:
    """An array, unless it holds dictionaries that are all empty. Raises InputError: Parquet has no such column."""
    kind = array.type
    while pa.types.is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind) and not kind.num_fields:
        raise InputError(f"stage {stage}: the column {name} holds nothing but empty dictionaries; return None there")
    return array


def no_type(name: str, values: Sequence[Any], rows: Sequence[Mapping[str, Any]], error: Exception) -> str:
    """Why a column has no type: two rows that differ, or a value that no column can hold."""
    first: dict[type, str] = {}
    for row, value in zip(rows, values, strict=True):
        try:
            array_of([value])
        except REFUSED:
            return (
                f"the row {row['id']} holds {type(value).__name__} in the column {name}, which no table can hold "
                f"({value!r:.60}); return text, numbers, lists or dictionaries"
            )
        if value is not None:
            first.setdefault(type(value), row["id"])
    held = " and ".join(f"{kind.__name__} (row {row_id})" for kind, row_id in list(first.items())[:2])
    fault = held if len(first) > 1 else f"values that differ inside ({' '.join(str(error).split())})"
    return f"the column {name} holds {fault}; a column has one type"


def writable(stage: str, frame: pl.DataFrame) -> pa.Table:
    """A frame as an Arrow table that Parquet can hold; categories are texts there. Raises InputError."""
    kinds = {name: without_categories(kind) for name, kind in frame.schema.items()}
    for name, kind in kinds.items():
        if unwritable(kind):
            raise InputError(
                f"stage {stage}: the column {name} is of type {kind}, which no table can hold; return text, numbers, "
                "lists or structs with fields"
            )
    changed = {name: kind for name, kind in kinds.items() if kind != frame.schema[name]}
    return frame.cast(changed).to_arrow(compat_level=pl.CompatLevel.oldest())  # type: ignore[arg-type]


def without_categories(kind: pl.DataType) -> pl.DataType:
    if isinstance(kind, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(kind, pl.List):
        return pl.List(without_categories(kind.inner))  # type: ignore[arg-type]
    if isinstance(kind, pl.Array):
        return pl.Array(without_categories(kind.inner), kind.size)  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return pl.Struct([pl.Field(field.name, without_categories(field.dtype)) for field in kind.fields])  # type: ignore[arg-type]
    return kind


def unwritable(kind: Any) -> bool:
    if isinstance(kind, pl.List | pl.Array):
        return unwritable(kind.inner)
    if isinstance(kind, pl.Struct):
        return not kind.fields or any(unwritable(field.dtype) for field in kind.fields)
    return isinstance(kind, pl.Object | pl.Unknown | pl.Int128)
