"""Seed columns: values dealt to rows, so that rows from nothing cover what they should, in the shares they should."""

import datetime
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import TableSettings
from synthmill.storage.artifacts import CALLS
from synthmill.storage.plain_files.rows import fingerprint
from synthmill.storage.plain_files.tables import look_at_table, read_table_parts
from synthmill.tasks.asking.dealing import Deal, words_of
from synthmill.tasks.asking.templates import expected
from synthmill.tasks.frames import FrameStage, even_parts

KINDS = ("categories", "integer", "number", "date", "persons")
MOST_CARDS = 24
"""Weights that make a deck of no more cards than this, and equal ones, are dealt exactly; others as shares."""
READ_AT_ONCE = 4096
Weights = dict[str, float]


class Attribute(Frozen):
    """How one column is filled; a list is `categories`. Exactly one of KINDS is set."""

    categories: dict[str, Any] | None = Field(
        None, description="texts, in a list or with weights; with `under`, those of each of that column's values"
    )
    under: str = Field("", description="the column, dealt before this one or the row's own, that decides on categories")
    integer: tuple[int, int] | None = Field(None, description="from, to; both may come")
    number: tuple[float, float] | None = Field(None, description="from, to")
    decimals: int | None = Field(None, ge=0, le=15, description="what numbers are rounded to")
    date: tuple[datetime.date, datetime.date] | None = Field(None, description="from, to; both may come")
    persons: LocalPath | None = Field(None, description="a file of rows, of which each row gets one, as a struct")
    column: str = Field("", description="the column of `persons` that is wanted instead of all")
    content: str = Field("", description="filled in: what is in the file of `persons`")

    @model_validator(mode="before")
    @classmethod
    def from_list(cls, value: Any) -> Any:
        value = {"categories": value} if isinstance(value, list | tuple) else value
        if isinstance(value, Mapping) and value.get("persons") and not value.get("content"):
            return {**value, "content": fingerprint(TableSettings(path=str(value["persons"])))}
        return value

    @field_validator("categories", mode="before")
    @classmethod
    def from_names(cls, value: Any) -> Any:
        return dict.fromkeys(texts(value), 1.0) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def is_one_kind(self) -> "Attribute":
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"it says {' and '.join(kinds) or 'nothing'}; expected one of {', '.join(KINDS)}")
        for setting, kind in (("under", "categories"), ("decimals", "number"), ("column", "persons")):
            if getattr(self, setting) not in ("", None) and kind != kinds[0]:
                raise ValueError(f"{setting} means nothing to {kinds[0]}; it belongs to {kind}")
        for kind in ("integer", "number", "date"):
            if (ends := getattr(self, kind)) and ends[0] > ends[1]:
                raise ValueError(f"{kind} goes from {ends[0]} to {ends[1]}; write the smaller one first")
        self.weights()
        return self

    def weights(self) -> dict[str, Weights]:
        """The weights of categories, by the value of the column that they are under; one of "" without such. Raises
        ValueError.
        """
        if self.categories is None:
            return {}
        groups = self.categories if self.under else {"": self.categories}
        return {value: weights_of(group, value) for value, group in groups.items()}


def texts(values: Any) -> list[str]:
    """The texts of a list. Raises ValueError for what is none, or stands there twice."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(
                f"{value!r} is no text; write it in quotes (YAML reads yes, no and numbers as what they are)"
            )
    if len(set(values)) < len(values):
        raise ValueError(f"{next(v for v in values if values.count(v) > 1)!r} is named twice; give it a weight instead")
    return list(values)


def weights_of(group: Any, value: str) -> Weights:
    """The weights of the categories in a list or a mapping. Raises ValueError."""
    if isinstance(group, list | tuple):
        group = dict.fromkeys(texts(group), 1.0)
    numbers = isinstance(group, Mapping) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < float("inf")
        for weight in group.values()
    )
    if not numbers or not any(group.values()):
        place = f"categories of {value!r}: " if value else "categories: "
        raise ValueError(f"{place}{group!r} is no list of texts, and has no weights; expected [a, b] or {{a: 2, b: 1}}")
    return {str(name): float(weight) for name, weight in group.items()}


class Attributes(FrameStage):
    """Rows -> the same rows with columns that are dealt to them: categories by weight, numbers, dates, rows of a file.

    Shares are as they were set at every number of rows (tasks/asking/dealing.py says how closely), also of `under`
    within each of its parent's values. What a row gets depends on its place and on `seed`: rows that are added at the
    end change nothing; where rows may go or move later, `balanced: false` draws by each row's id alone.
    Drops: no_category, where the row's own column that categories are `under` has a value without any.
    """

    name: ClassVar = "attributes"
    version: ClassVar = "1"
    whole: ClassVar = True
    adds_own_columns: ClassVar = True

    columns: dict[str, Attribute] = Field(min_length=1)
    balanced: bool = True
    seed: int = Field(0, description="filled in: the run's")
    rows_per_part: int = Field(256, ge=1)

    @model_validator(mode="after")
    def fits_together(self) -> "Attributes":
        before: dict[str, Attribute] = {}
        for name, attribute in self.columns.items():
            if name in ("id", "parent_id", CALLS) or not name:
                raise ValueError(f"columns: {name!r} is a name that every row has already; choose another")
            if attribute.under in self.columns:
                if attribute.under not in before:
                    raise ValueError(f"columns.{name}: it is under {attribute.under}; write that column before it")
                if before[attribute.under].categories is None:
                    raise ValueError(f"columns.{name}: it is under {attribute.under}, which has no categories itself")
                parents = {value for group in before[attribute.under].weights().values() for value in group}
                if lacking := sorted(parents - attribute.weights().keys()):
                    has = ", ".join(attribute.weights())
                    raise ValueError(f"columns.{name}: it has no categories for {', '.join(lacking)}; found {has}")
            before[name] = attribute
        return self

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """With the order of columns, and with what is in files instead of their paths."""
        identity = super().identity(engines)
        columns = identity["settings"]["columns"].items()
        identity["settings"]["columns"] = [[name, {**settings, "persons": None}] for name, settings in columns]
        return identity

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        return pa.schema([*columns, *(pa.field(name, type_of(each)) for name, each in self.columns.items())])

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError for a column that is there already, and for a parent that is not."""
        for name, attribute in self.columns.items():
            if name in columns.names:
                raise InputError(
                    f"{self.name}: the rows have a column {name!r} already; call the new one something else"
                )
            parent = attribute.under
            if parent and parent not in self.columns and parent not in columns.names:
                known = [*self.columns, *columns.names]
                raise InputError(
                    f"{self.name}: {name} is under {parent!r}, which is no column; {expected(parent, known)}"
                )

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        self.check_columns(frame.head(0).to_arrow().schema)
        ids = words_of(frame["id"])
        row_parents = list(
            dict.fromkeys(each.under for each in self.columns.values() if each.under not in ("", *self.columns))
        )
        lacking = pl.Series([False]).new_from_index(0, frame.height)
        for name, attribute in self.columns.items():
            parents = frame[attribute.under].cast(pl.String) if attribute.under else None
            values = dealt(attribute, name, ids, parents, self)
            frame = frame.with_columns(values.alias(name))
            if attribute.under in row_parents:
                lacking |= values.is_null()
        drops = [
            Dropped(
                id=row["id"], reason="no_category", detail=", ".join(f"{name}: {row[name]}" for name in row_parents)
            )
            for row in frame.filter(lacking).select("id", *row_parents).iter_rows(named=True)
        ]
        return frame.filter(~lacking), drops


def dealt(
    attribute: Attribute, name: str, ids: NDArray[np.uint64], parents: pl.Series | None, stage: Attributes
) -> pl.Series:
    """The values of a column, for every row; null where the value it is under has no categories."""
    deal = Deal.of(ids, stage.balanced, stage.seed, name)
    if attribute.categories is not None and parents is None:
        return dealt_categories(deal, attribute.weights()[""])
    if attribute.categories is not None and parents is not None:
        values = np.full(len(ids), None, object)
        for parent, weights in attribute.weights().items():
            rows = (parents == parent).fill_null(value=False).to_numpy()
            group = Deal.of(ids[rows], stage.balanced, stage.seed, name, parent)
            values[rows] = dealt_categories(group, weights).to_numpy()
        return pl.Series(values, dtype=pl.String)
    if attribute.integer:
        low, high = attribute.integer
        return pl.Series(low + (deal.shares() * (high - low + 1)).astype(np.int64))
    if attribute.number:
        lowest, highest = attribute.number
        numbers = pl.Series(lowest + deal.shares() * (highest - lowest))
        return numbers if attribute.decimals is None else numbers.round(attribute.decimals)
    if attribute.date:
        first, last = attribute.date
        days = (deal.shares() * ((last - first).days + 1)).astype(np.int64)
        return pl.Series(days).cast(pl.Int32).cast(pl.Date) + (first - datetime.date(1970, 1, 1))
    persons = pl.DataFrame(persons_of(attribute))
    column = persons[attribute.column] if attribute.column else persons.to_struct()
    return column.gather(deal.cards(len(column)))


def dealt_categories(deal: Deal, weights: Weights) -> pl.Series:
    """A category for each row: from a deck where the weights make a small one, else by shares."""
    names = pl.Series(list(weights), dtype=pl.String)
    if deck := deck_of(list(weights.values())):
        return names.gather(np.repeat(np.arange(len(deck)), deck)[deal.cards(sum(deck))])
    ends = np.cumsum(list(weights.values())) / sum(weights.values())
    return names.gather(np.searchsorted(ends[:-1], deal.shares(), side="right"))


def deck_of(weights: list[float]) -> list[int]:
    """How many cards of each category a deck has; none where it would be large."""
    exact = [Fraction(str(weight)) for weight in weights]
    whole = [int(weight * lcm(*(each.denominator for each in exact))) for weight in exact]
    cards = [number // gcd(*whole) for number in whole]
    return cards if sum(cards) <= MOST_CARDS or set(cards) == {1} else []


def type_of(attribute: Attribute) -> pa.DataType:
    if attribute.persons:
        schema = persons_of(attribute).schema
        return schema.field(attribute.column).type if attribute.column else pa.struct(list(schema))
    kinds = {"categories": pa.string(), "integer": pa.int64(), "number": pa.float64(), "date": pa.date32()}
    return next(kind for name, kind in kinds.items() if getattr(attribute, name) is not None)


def persons_of(attribute: Attribute) -> pa.Table:
    """The rows of a file. Raises InputError where it cannot be read, lacks the column that is wanted, or has changed
    since the stage was planned.
    """
    source = TableSettings(path=str(attribute.persons))
    if fingerprint(source) != attribute.content:
        raise InputError(f"{source.path} has changed since it was planned; run the same command again")
    rows = rows_of(source.path, attribute.content)
    if (name := attribute.column) and name not in rows.column_names:
        raise InputError(f"{source.path} has no column {name!r}; {expected(name, rows.column_names)}")
    return rows


@lru_cache(4)
def rows_of(path: str, content: str) -> pa.Table:
    """A file's rows that can be read. content: what is in it, so that a file that changed is read again."""
    source = TableSettings(path=path)
    return pa.concat_tables(
        [part.table for part in read_table_parts(source, look_at_table(source).schema, READ_AT_ONCE)]
    )
