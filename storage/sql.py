"""Paths, names and files in the SQL that this project writes."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmill.schemas.errors import InputError, StoreError

if TYPE_CHECKING:
    import duckdb

PATTERN = re.compile(r"[*?\[]")


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name of a view or column."""
    return '"' + name.replace('"', '""') + '"'


def parquet(files: Iterable[Path | str], *, filename: str = "") -> str:
    """A DuckDB table function over exactly these files; filename: a column for each row's file.

    Raises StoreError for a path that DuckDB cannot open.
    """
    paths = [str(file) for file in files]
    options = f", filename = {literal(filename)}" if filename else ""
    if any("=" in path for path in paths):
        options += ", hive_partitioning = false"  # else a folder a=b adds a column a
    return f"read_parquet([{', '.join(literal(exact(path)) for path in paths)}]{options})"


def exact(path: str) -> str:
    """A pattern that only this path matches: DuckDB and polars read every path as a pattern."""
    check_path(path)
    return PATTERN.sub(r"[\g<0>]", path)


def check_path(path: Path | str) -> None:
    """Raises InputError or StoreError for a path that DuckDB cannot open."""
    text = str(path)
    check_encoding(text)
    if "\\" in text:
        raise StoreError(f"{text} holds a backslash, which DuckDB takes for a slash; rename its folder")


def check_encoding(path: str) -> None:
    """Raises InputError for a path that is not UTF-8: neither JSON nor Parquet nor DuckDB can name it."""
    readable = os.fsencode(path).decode(errors="backslashreplace")
    if readable != path:
        raise InputError(f"{readable} is not UTF-8; rename it, or run synthmill in another folder")


def insert(database: "duckdb.DuckDBPyConnection", table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all with the keys of the first. As lists: DuckDB imports pandas for an Arrow table."""
    if rows:
        columns = ", ".join(f"unnest(${name}) AS {quoted(name)}" for name in rows[0])
        values = {name: [row[name] for row in rows] for name in rows[0]}
        database.execute(f"INSERT INTO {table} BY NAME SELECT {columns}", values)
