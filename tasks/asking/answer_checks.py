"""What an answer must satisfy beyond its schema, field by field; the model is told which check its answer failed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.tasks.asking.answer_forms import compiled
from synthmill.tasks.asking.templates import ROW, expected, expression_of


class FieldCheck(Frozen):
    """The checks of one field; an expression alone may be written as a text. A field that is null is not checked."""

    pattern: str | None = Field(
        None, description="a regular expression that is found in the text, or in each of a list"
    )
    min_length: int | None = Field(None, ge=0, description="characters of a text, entries of a list")
    max_length: int | None = Field(None, ge=0)
    one_of: tuple[Any, ...] = Field((), description="the values that are allowed, or each of a list")
    expression: str | None = Field(
        None, description="a Jinja expression over the answer's fields and the row's columns"
    )

    @model_validator(mode="before")
    @classmethod
    def from_text(cls, value: Any) -> Any:
        return {"expression": value} if isinstance(value, str) else value

    @field_validator("pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            compiled(pattern, "pattern")
        return pattern

    @field_validator("expression")
    @classmethod
    def parses(cls, expression: str | None) -> str | None:
        if expression is not None:
            expression_of(expression)
        return expression

    def check_type(self, name: str, kind: pa.DataType) -> None:
        """Raises ValueError for a check that means nothing to a column's type."""
        entry = kind.value_type if pa.types.is_list(kind) else kind
        if self.pattern is not None and not pa.types.is_string(entry):
            raise ValueError(f"check.{name}: a pattern means nothing to {kind}; write an expression")
        sized = self.min_length is not None or self.max_length is not None
        if sized and not (pa.types.is_string(kind) or pa.types.is_list(kind)):
            raise ValueError(f"check.{name}: {kind} has no length; write an expression, for instance '{name} > 0'")

    def faults(self, name: str, value: Any, values: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with a field's value. values: the row's columns and the answer's fields."""
        entries = value if isinstance(value, list) else [value]
        unit = "entries" if isinstance(value, list) else "characters"
        if self.min_length is not None and len(value) < self.min_length:
            yield f"{name} has {len(value)} {unit}, at least {self.min_length} are needed"
        if self.max_length is not None and len(value) > self.max_length:
            yield f"{name} has {len(value)} {unit}, at most {self.max_length} are allowed"
        if self.pattern is not None and not all(re.search(self.pattern, entry) for entry in entries if entry):
            yield f"{name} must match {self.pattern}"
        if self.one_of and not all(entry in self.one_of for entry in entries):
            yield f"{name} must be one of {', '.join(map(str, self.one_of))}"
        if self.expression is not None and not expression_of(self.expression).holds(values):
            yield f"{name} must satisfy: {self.expression}"


def check_fields(checks: Mapping[str, FieldCheck], fields: Iterable[pa.Field]) -> None:
    """Raises ValueError for a check of a field that an answer does not have, or that means nothing to its type."""
    kinds = {field.name: field.type for field in fields}
    for name, check in checks.items():
        if name not in kinds:
            raise ValueError(f"check.{name}: the answer has no field {name!r}; {expected(name, kinds)}")
        check.check_type(name, kinds[name])


def first_fault(checks: Mapping[str, FieldCheck], fields: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The first check that an answer fails, for people and models; empty if it fails none."""
    values = {ROW: row, **row, **fields} if checks else fields
    faults = (
        fault
        for name, check in checks.items()
        if fields[name] is not None
        for fault in check.faults(name, fields[name], values)
    )
    return next(faults, "")
