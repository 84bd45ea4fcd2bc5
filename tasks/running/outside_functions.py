"""A user's plain function as the work of a stage: `frame -> frame`, or `row -> row`."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import Drop, InputError, SynthmillError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.python_files import PythonFile, fault_of
from synthmill.tasks.running.outside_columns import Declared, declared_columns, table_of_rows, without_none, writable

LONGEST_DETAIL = 500  # characters
IDS_NAMED = 3
Kind = Literal["frame", "row"]
FAULTS = (Exception, SystemExit, pl.exceptions.PanicException)
"""What a user's code may raise; the last two are no Exception."""
RESERVED = ("whole", "rows_per_part")
"""Settings of a step with a frame function that are not the function's."""


@dataclass(frozen=True)
class Function:
    """A user's function. settings: its parameters but the first, and, for a frame, those that are reserved."""

    call: Callable[..., Any]
    name: str
    file: PythonFile
    kind: Kind
    settings: type[Frozen]
    declared: Declared
    adds: tuple[str, ...]

    def run_on(self, table: pa.Table, settings: Frozen) -> tuple[pa.Table, list[Dropped]]:
        """The rows it makes of a table, and those it drops. Raises InputError for what breaks the stage."""
        arguments = self.arguments(settings)
        return self.on_frame(table, arguments) if self.kind == "frame" else self.on_rows(table, arguments)

    def arguments(self, settings: Frozen) -> dict[str, Any]:
        """What it is called with beside its rows."""
        reserved = RESERVED if self.kind == "frame" else ()
        return {name: getattr(settings, name) for name in type(settings).model_fields if name not in reserved}

    def on_frame(self, table: pa.Table, arguments: Mapping[str, Any]) -> tuple[pa.Table, list[Dropped]]:
        frame = pl.from_arrow(table)
        with faults_named(self.name, self.file):
            returned = self.call(frame, **arguments)
        kept, dropped = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, ())
        if not isinstance(kept, pl.DataFrame):
            raise InputError(
                f"stage {self.name}: it returned {type(kept).__name__}; expected a polars DataFrame, or (kept, dropped)"
            )
        return writable(self.name, kept), self.read_dropped(dropped)

    def read_dropped(self, dropped: Any) -> list[Dropped]:
        """The rows that a frame function names as dropped: a frame with id, reason and perhaps detail, or Dropped."""
        rows = dropped.to_dicts() if isinstance(dropped, pl.DataFrame) else dropped
        try:
            return [row if isinstance(row, Dropped) else read_drop(row) for row in rows]
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"stage {self.name}: what it drops cannot be read ({type(error).__name__}: {error}); expected a frame "
                "with the columns id and reason, and perhaps detail"
            ) from None

    def on_rows(self, table: pa.Table, arguments: Mapping[str, Any]) -> tuple[pa.Table, list[Dropped]]:
        names = table.column_names
        ids = table["id"].to_pylist()
        columns = [table[name].to_pylist() for name in names]
        rows, dropped = [], []
        wrong: dict[str, list[str]] = {}
        for row_id, values in zip(ids, zip(*columns, strict=True), strict=True):
            try:
                row = self.call(dict(zip(names, values, strict=True)), **arguments)
                row = row.model_dump() if isinstance(row, BaseModel) else row
            except Drop as drop:
                dropped.append(Dropped(id=row_id, reason=drop.reason, detail=drop.detail[:LONGEST_DETAIL]))
                continue
            except FAULTS as error:
                detail = fault_of(error, self.file)[:LONGEST_DETAIL]
                dropped.append(Dropped(id=row_id, reason="stage_error", detail=detail))
                continue
            if row is None:
                dropped.append(Dropped(id=row_id, reason="returned_none"))
            elif fault := wrong_row(row, row_id):
                wrong.setdefault(fault, []).append(row_id)
            else:
                rows.append(row)
        for fault, row_ids in wrong.items():
            raise InputError(f"stage {self.name}: for {listed(row_ids)} it returned {fault}")
        return table_of_rows(self.name, table, rows, self.declared), dropped

    def output_columns(self, columns: pa.Schema, settings: Frozen) -> pa.Schema:
        """The columns of what it makes: a frame function is run on an empty frame. Where that fails, and for a row
        function that declares nothing, those that it gets and those that it says it adds, of unknown type.
        """
        new = [pa.field(name, pa.null()) for name in self.adds if name not in columns.names]
        if self.kind == "frame":
            try:
                table, _ = self.on_frame(columns.empty_table(), self.arguments(settings))
                return table.schema
            except (SynthmillError, pa.ArrowException):
                return pa.schema([*(pa.field(field.name, pa.null()) for field in columns), *new])
        if self.declared:
            kept = [field for field in columns if field.name in ("id", "parent_id") and field.name not in self.declared]
            return pa.schema([*kept, *self.declared.items()])
        return pa.schema([*columns, *new])


@contextmanager
def faults_named(stage: str, file: PythonFile) -> Iterator[None]:
    """Turn what a user's code raises into one line that names the place; our own errors pass."""
    try:
        yield
    except SynthmillError:
        raise
    except FAULTS as error:
        raise InputError(f"stage {stage}: {fault_of(error, file)}") from None


def read_drop(row: Mapping[str, Any]) -> Dropped:
    return Dropped(id=row["id"], reason=row["reason"], detail=(row.get("detail") or "")[:LONGEST_DETAIL])


def wrong_row(row: Any, row_id: str) -> str:
    """What is wrong with a row that a function returned; empty for nothing."""
    if not isinstance(row, Mapping):
        return f"{type(row).__name__}; expected a dict, or None to drop the row"
    if "id" not in row:
        return "a row without id; return the whole row, such as {**row, 'score': 1}"
    if not all(isinstance(name, str) for name in row):
        return "keys that are no text; they name columns"
    if not isinstance(row["id"], str) or row_id not in (row["id"], row.get("parent_id")):
        return "another id; keep it, or give the new row's parent_id the id that went in"
    return ""


def listed(ids: Sequence[str]) -> str:
    """How many rows, and the first few."""
    more = ", ..." if len(ids) > IDS_NAMED else ""
    return f"{len(ids)} row{'s' if len(ids) > 1 else ''} ({', '.join(map(str, ids[:IDS_NAMED]))}{more})"


def check_rows(stage: str, table: pa.Table, output: pa.Table, dropped: Sequence[Dropped]) -> None:
    """Every row that went in comes out as a row, as a row's parent, or as a drop. Raises InputError, in one line."""
    if "id" not in output.column_names:
        raise InputError(f"stage {stage}: it returned no column id (found {', '.join(output.column_names)}); keep it")
    ids = output["id"]
    if output.num_rows and not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)):
        raise InputError(f"stage {stage}: its ids are of type {ids.type}; expected text")
    if ids.null_count:
        raise InputError(f"stage {stage}: {ids.null_count} of its rows have no id")
    before, after, gone = table["id"].to_pylist(), ids.to_pylist(), [row.id for row in dropped]
    seen: set[str] = set()
    if doubled := [row_id for row_id in [*after, *gone] if row_id in seen or seen.add(row_id)]:  # type: ignore[func-returns-value]
        raise InputError(f"stage {stage}: {listed(list(dict.fromkeys(doubled)))} came out twice; an id is a row's own")
    if strange := [row_id for row_id in gone if row_id not in set(before)]:
        raise InputError(f"stage {stage}: it dropped {listed(strange)} that it did not get")
    parents = output["parent_id"].to_pylist() if "parent_id" in output.column_names else []
    if both := [row_id for row_id in gone if row_id in set(parents)]:
        raise InputError(f"stage {stage}: {listed(both)} came out as a row's parent and as dropped")
    accounted = seen.union(parents)
    if lost := [row_id for row_id in before if row_id not in accounted]:
        raise InputError(
            f"stage {stage}: it lost {listed(lost)} of {len(before)}; return (kept, dropped), where dropped is a frame "
            "with the columns id and reason"
        )


def read_function(call: Callable[..., Any], name: str, file: PythonFile) -> Function:
    """Learn a function's kind and settings from its signature. Raises InputError for one that is no stage."""
    place = f"{file.path.name}:{call.__name__}"
    if inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise InputError(f"{place} is async or yields; expected a function that returns a row or a frame")
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError as error:
        raise InputError(f"{place} says nothing of its parameters: {error}") from None
    try:
        hints = get_type_hints(call, include_extras=True)
    except Exception:  # a name that only a type checker imports
        hints = {parameter.name: parameter.annotation for parameter in parameters}
        hints["return"] = inspect.signature(call).return_annotation
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, NAMED):
        raise InputError(f"{place} takes no rows; expected a function of a row (dict) or of a frame (pl.DataFrame)")
    kind = kind_of(parameters[0], hints, place)
    try:
        declared = declared_columns(hints.get("return")) if kind == "row" else Declared()
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{place}: its return type has no Arrow form: {error}") from None
    settings = settings_model(call, parameters[1:], hints, kind, place)
    return Function(call, name, file, kind, settings, declared, tuple(getattr(call, "adds", ())))


NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


def kind_of(parameter: inspect.Parameter, hints: Mapping[str, Any], place: str) -> Kind:
    """Whether a function takes a frame or a row: as annotated, else as its parameter is called."""
    annotation = hints.get(parameter.name, inspect.Parameter.empty)
    if annotation is pl.DataFrame or (isinstance(annotation, str) and annotation.endswith("DataFrame")):
        return "frame"
    if annotation is inspect.Parameter.empty and (returned := without_none(hints.get("return"))) is pl.DataFrame:
        return "frame"
    if annotation is inspect.Parameter.empty and returned in (None, inspect.Parameter.empty):
        if parameter.name in ("frame", "row"):
            return parameter.name  # type: ignore[return-value]
        raise InputError(f"{place}: is {parameter.name} a row or a frame? annotate it as dict or as pl.DataFrame")
    if annotation in (pl.LazyFrame, pl.Series, pa.Table):
        raise InputError(f"{place} takes {annotation.__name__}; expected a row (dict) or a frame (pl.DataFrame)")
    return "row"


def settings_model(
    call: Callable[..., Any], parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any], kind: Kind, place: str
) -> type[Frozen]:
    """A function's parameters as a settings model, which YAML fills in."""
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind not in (NAMED, inspect.Parameter.KEYWORD_ONLY):
            raise InputError(f"{place} takes *{parameter.name}; expected parameters with names, which a step sets")
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(parameter.name, Any)
        fields[parameter.name] = (Any if annotation is parameter.empty else annotation, default)
    if kind == "frame":
        if taken := [name for name in RESERVED if name in fields]:
            raise InputError(f"{place} has a parameter {taken[0]}, which every step with a frame function has")
        fields["whole"] = (bool, Field(bool(getattr(call, "whole", False)), description="whether it sees all rows"))
        fields["rows_per_part"] = (int, Field(0, ge=0, description="rows of each part it makes, if it is whole"))
    try:
        with warnings.catch_warnings(action="ignore"):  # a parameter called as a method of pydantic's
            return create_model(
                call.__name__, __base__=Settings, __module__=call.__module__, __doc__=call.__doc__, **fields
            )
    except Exception as error:
        raise InputError(f"{place}: its parameters are no settings: {' '.join(str(error).split())}") from None


class Settings(Frozen):
    """The base of functions' settings, whose names are the users'."""

    model_config = ConfigDict(protected_namespaces=(), arbitrary_types_allowed=False)
