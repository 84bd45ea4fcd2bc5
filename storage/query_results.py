"""What an SQL query gives in a database of its own, which sees no file and no network."""

import math
import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import duckdb

from synthmill.schemas.errors import InputError

MOST_ROWS = 100_000
DIGITS = 9
"""Of a number with a fraction: two results that differ beyond them are the same."""
LOCKED: dict[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "1GB",
    "threads": 1,
}
ORDERED = re.compile(r"\border\s+by\b", re.I)
NESTED = re.compile(r"\([^()]*\)|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.S)


def rows_of(setup: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as values that can be compared. setup: SQL that makes its tables. Raises InputError."""
    with duckdb.connect(config=LOCKED) as database:
        try:
            database.execute(setup or "SELECT 1")
            database.execute("SET lock_configuration = true")
            statements = database.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise InputError("expected one SELECT")
            rows = database.execute(statements[0]).fetchmany(MOST_ROWS + 1)
        except duckdb.OutOfMemoryException as error:
            raise MemoryError from error
        except (
            duckdb.Error,
            ValueError,
            OverflowError,
            UnicodeError,
        ) as error:  # dates beyond Python's, lone surrogates
            raise InputError(" ".join(str(error).split())) from error
    if len(rows) > MOST_ROWS:
        raise InputError(f"it gives over {MOST_ROWS:,} rows")
    return [tuple(map(comparable, row)) for row in rows]


def same_rows(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]], *, ordered: bool) -> bool:
    """Whether two results are the same: as lists, or, without an order, as multisets. Columns have no names here."""
    return first == second if ordered else in_order(first) == in_order(second)


def in_order(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def orders_its_rows(query: str) -> bool:
    """Whether a query says an order of its whole result: ORDER BY outside of brackets, strings and comments."""
    before = ""
    while query != before:
        before, query = query, NESTED.sub(" ", query)
    return bool(ORDERED.search(query))


def comparable(value: Any) -> Any:
    """A value as (kind, value): numbers of any type alike, to DIGITS digits; NaN is NaN; dates and times as text."""
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int | float | Decimal):
        return number(value)
    if isinstance(value, datetime | date | time | timedelta):
        return str(value)
    if isinstance(value, list | tuple):
        return tuple(map(comparable, value))
    if isinstance(value, dict):
        return tuple((str(name), comparable(each)) for name, each in value.items())
    return value if isinstance(value, str | bytes) else str(value)


def number(value: int | float | Decimal) -> tuple[str, str]:
    """A number, apart from a text of the same digits. A whole number keeps all of its digits."""
    if isinstance(value, int):
        return "number", str(value)
    rounded = float(f"{value:.{DIGITS}g}")
    whole = math.isfinite(rounded) and rounded == int(rounded)
    return "number", str(int(rounded)) if whole else repr(rounded)
