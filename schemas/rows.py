"""Rows: frozen pydantic models with a derived Arrow schema.

Ids are content hashes, or the user's own; a child's id derives from its parent's id and its place, so the same input
leads to the same ids on every machine. `parent_id` is the row that went in: rows are conserved per input id.

A field of type `Thinking` is a column only in tables in which an answer has any, so tables without are as they would
be without the field. All fields of thinking of a row type are there, or none is.
"""

import types
import typing
from collections.abc import Iterable, Sequence
from functools import cache
from operator import not_
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

import pyarrow as pa
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from synthmill.schemas.calls import Frozen
from synthmill.schemas.hashing import child_id

R = TypeVar("R", bound=Frozen)


def are_absent(thoughts: Sequence[str]) -> bool:
    return not any(thoughts)


class ThinkingField:
    """Marks a field of thinking."""


Thinking = Annotated[str | None, ThinkingField(), Field(exclude_if=not_)]
"""What a model thought before its answer; None where it did not. In no dump of a row that has none."""
ThinkingOfEach = Annotated[tuple[str, ...], ThinkingField(), Field(exclude_if=are_absent)]
"""The same of several answers, in their order; empty where none has any."""


class Row(Frozen):
    """One row of an artifact."""

    id: str
    parent_id: str = ""

    @classmethod
    def child_of(cls, parent: "Row", place: str | int, **fields: Any) -> Self:
        """Make the row at `place` under `parent`; fields that both types have are copied, except those passed here."""
        for name in shared_fields(cls, type(parent)):
            if name not in fields:
                fields[name] = getattr(parent, name)
        return cls(id=child_id(parent.id, place), parent_id=parent.id, **fields)


@cache
def shared_fields(child: type[Row], parent: type[Row]) -> frozenset[str]:
    """The fields that a child copies from its parent."""
    return frozenset(child.model_fields.keys() & parent.model_fields.keys() - {"id", "parent_id"})


class Instruction(Row):
    """A user's instruction, with the system message it came with, if any."""

    prompt: str
    system: str | None = None
    source: str = Field("", description="the dataset or file it came from")
    note: str = Field("", description="what the reader did to it, for instance that later turns were left out")


class TableRow(Row):
    """A row of any table, in memory only. values: its columns by name."""

    values: dict[str, Any] = Field(default_factory=dict)


class KnownPrompt(Row):
    """A prompt to compare others with: a benchmark's, or a published one. name: its id in its file, or its line;
    turns: the user's texts.
    """

    name: str
    turns: tuple[str, ...]
    source: str = ""


class TextRow(Row):
    """What comparisons need of a row of a user's file. place: its line; name: its id in the file, or its line; turns:
    the texts of a chat's messages; known: how many of its columns hold a value; within: values that must be equal
    for two rows to be compared.
    """

    text: str
    turns: tuple[str, ...]
    place: str
    name: str
    known: int
    score: float | None = None
    within: str = ""


class Answer(Frozen):
    """One sampled response to a prompt. finish_reason: how it ended, as the engine reports it (schemas/endings.py)."""

    answer_index: int
    text: str
    finish_reason: str
    completion_tokens: int
    reasoning: Thinking = None


class Pool(Instruction):
    """A prompt's answers, by answer_index; indexes of missing answers are absent."""

    answers: tuple[Answer, ...]


class Pair(Instruction):
    """A preferred and a rejected answer to the same prompt, with their rewards."""

    chosen: str
    rejected: str
    chosen_index: int
    rejected_index: int
    chosen_reward: float
    rejected_reward: float
    cut: str
    chosen_reasoning: Thinking = None
    rejected_reasoning: Thinking = None


class Dropped(Frozen):
    """A row that could not be made: the input's id, a reason to count by, and details."""

    id: str
    reason: str
    detail: str = ""


def arrow_type(annotation: Any, thinking: bool = False) -> pa.DataType:
    """Translate a field's annotation; raises TypeError for a type without a plain Arrow form."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return arrow_type(arguments[0], thinking)
    if origin is Literal:
        return pa.string()
    if origin in (Union, types.UnionType):
        [inner] = [a for a in arguments if a is not type(None)]
        return arrow_type(inner, thinking)
    if origin in (tuple, list, Sequence, typing.Sequence):
        return pa.list_(arrow_type(arguments[0], thinking))
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return pa.struct(list(arrow_schema(annotation, thinking)))
    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in scalars:
        return scalars[annotation]
    raise TypeError(f"no Arrow type for {annotation!r}; use str, int, float, bool, a tuple or another row type")


@cache
def arrow_schema(model: type[Frozen], thinking: bool = False) -> pa.Schema:
    """The Arrow schema of a row type: a column per field, in field order. thinking: then those of its fields, too."""
    fields = {name: info for name, info in model.model_fields.items() if not is_thinking(info)}
    if thinking:
        fields |= {name: info for name, info in model.model_fields.items() if is_thinking(info)}
    return pa.schema([pa.field(name, arrow_type(info.annotation, thinking)) for name, info in fields.items()])


@cache
def row_columns(model: type[Frozen]) -> tuple[str, ...]:
    """The columns that every table of a row type has."""
    return tuple(arrow_schema(model).names)


def is_thinking(info: FieldInfo) -> bool:
    return any(isinstance(mark, ThinkingField) for mark in info.metadata)


@cache
def thinking_paths(model: type[Frozen]) -> tuple[tuple[str, ...], ...]:
    """Where a row type has fields of thinking: names of fields, one within the other; lists need no step of theirs."""
    paths: list[tuple[str, ...]] = []
    for name, info in model.model_fields.items():
        if is_thinking(info):
            paths.append((name,))
        elif inner := row_type_in(info.annotation):
            paths += [(name, *path) for path in thinking_paths(inner)]
    return tuple(paths)


def row_type_in(annotation: Any) -> type[Frozen] | None:
    """The row type that a field holds, one or many."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next((inner for each in get_args(annotation) if (inner := row_type_in(each))), None)


def holds(rows: Iterable[Any], path: Sequence[str]) -> bool:
    """Whether any of some dumped rows has a value at a path: an empty one is in no dump."""
    name, *further = path
    if not further:
        return any(name in row for row in rows)
    values = (row.get(name) or () for row in rows)
    return any(holds(value if isinstance(value, tuple | list) else (value,), further) for value in values)


def to_arrow(model: type[Frozen], rows: Iterable[Frozen]) -> pa.Table:
    """Rows to a table, column by column (half the time of `Table.from_pylist`)."""
    dumped = [row.__pydantic_serializer__.to_python(row) for row in rows]
    schema = arrow_schema(model, any(holds(dumped, path) for path in thinking_paths(model)))
    return pa.table([pa.array([row.get(field.name) for row in dumped], field.type) for field in schema], schema=schema)


def read_rows(model: type[Any], table: pa.Table) -> tuple[list[Any], list[Dropped]]:
    """A table to rows, as `from_arrow`; a row that the model refuses is dropped, with the reason `bad_row`."""
    names = [name for name in table.column_names if name in model.model_fields]
    validate = model.__pydantic_validator__.validate_python
    rows: list[Any] = []
    dropped: list[Dropped] = []
    for fields in table.select(names).to_pylist():
        try:
            rows.append(validate(fields))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            dropped.append(Dropped(id=fields["id"], reason="bad_row", detail=f"{place}: {fault['msg']}"))
    return rows, dropped


def from_arrow(model: type[R], table: pa.Table) -> list[R]:
    """A table to rows; columns that the row type lacks are left out."""
    names = [name for name in table.column_names if name in model.model_fields]
    validate = model.__pydantic_validator__.validate_python
    return [validate(row) for row in table.select(names).to_pylist()]
