"""What paths, names and files are called in SQL that this project writes."""

import re
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import StoreError

PATTERN = re.compile(r"[*?\[]")


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name of a view or column."""
    return '"' + name.replace('"', '""') + '"'


def parquet(files: Iterable[Path | str], *, filename: str = "") -> str:
    """A DuckDB table function over exactly these files; filename: a column for each row's file.

    Raises StoreError for a path that DuckDB cannot be given.
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
    """Raises StoreError for a path that DuckDB cannot open."""
    text = str(path)
    if "\\" in text and PATTERN.search(text):
        raise StoreError(f"{text} holds a backslash beside one of * ? [, which DuckDB cannot open; rename its folder")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        readable = text.encode("utf-8", "backslashreplace").decode()
        raise StoreError(f"{readable} is not UTF-8, and DuckDB opens no such path; rename its folder") from error
