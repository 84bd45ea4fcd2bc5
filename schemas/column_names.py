"""Names of columns in error texts: what was asked for, what is there, what is near."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from synthmill.schemas.errors import InputError

SHOWN = 30


def absent(name: str, columns: Sequence[str]) -> str:
    """Says that a column is not there, with the nearest names and those that are."""
    by_fold = {column.casefold(): column for column in columns}
    nearest = [by_fold[fold] for fold in get_close_matches(name.casefold(), by_fold, n=3, cutoff=0.5)]
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return f"there is no column {name!r}{hint}; found {', '.join(columns[:SHOWN]) or 'none'}{more}"


def check_columns(asked_by: str, names: Iterable[str], columns: Sequence[str]) -> None:
    """Raises InputError for the first name that is no column."""
    for name in names:
        if name not in columns:
            raise InputError(f"{asked_by}: {absent(name, columns)}")


def check_free(asked_by: str, names: Iterable[str], columns: Sequence[str]) -> None:
    """Raises InputError for the first of some new columns whose name is taken."""
    for name in names:
        if name in columns:
            raise InputError(f"{asked_by}: the rows have a column {name!r} already; rename it before this step")
