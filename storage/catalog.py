"""The catalog: `catalog.duckdb`, every artifact of a store as one database, for any DuckDB client.

It is derived: a copy of it is brought up to date beside a lock, then swapped in with a rename. Nothing waits for it and
nothing is lost with it. Views: one per artifact (stage_1a2b3c4d) and one per stage for its latest artifact. Tables and
views of all: runs, artifacts, lineage, drops, calls, spend, store. A store that cannot be written has its catalog in a
temporary folder, for one question.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from schemas.errors import InputError, StoreError
from storage.artifacts import Store
from storage.call_copies import COPIES, NO_CALLS, copy_calls
from storage.catalog_update import VERSION, create_tables, folders_of, modified, remember, update_tables
from storage.catalog_views import replace_view, update_drops, update_views
from storage.files import write_atomically
from storage.row_index import index_rows, parts_with_ids
from storage.segments import seal_abandoned, spent_in
from storage.sql import check_path, insert, parquet

DERIVED, DROPS, ROWS = "derived", "drops", "rows"
SPEND = (
    *("run", "stage", "step", "role", "engine"),
    *("calls", "prompt_tokens", "completion_tokens", "mean_latency_s"),
)


def rebuild(store: Store, *, calls: bool = True) -> Path:
    """Bring the catalog up to date and swap it in; returns its path. Safe while runs write and readers read.

    calls: whether the calls and what they cost are brought up to date, too. Raises StoreError when it cannot be made.
    """
    check_path(store.root)
    try:
        with locked_catalog(store):
            if calls:
                seal_abandoned(store.calls)
            try:
                write_atomically(store.catalog, lambda path: fill(path, store, calls))
            except duckdb.Error:  # something derived is damaged
                forget(store)
                write_atomically(store.catalog, lambda path: fill(path, store, calls))
    except (duckdb.Error, OSError) as error:
        raise cannot_make(store, error) from error
    return store.catalog


def cannot_make(store: Store, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())[:300]
    return StoreError(f"cannot make {store.catalog}: {reason}; run the same command again to make what is damaged anew")


@contextmanager
def locked_catalog(store: Store) -> Iterator[None]:
    """Whoever writes the catalog, or what it is derived with, holds this lock."""
    with (store.root / ".catalog.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def forget(store: Store) -> None:
    """Delete all that is derived; the next catalog is made from nothing."""
    store.catalog.unlink(missing_ok=True)
    for folder in (store.calls / COPIES, store.root / DERIVED):
        shutil.rmtree(folder, ignore_errors=True)


def fill(path: Path, store: Store, calls: bool, target: Path | None = None) -> None:
    """Make an up-to-date catalog at a path, from the one that there is. target: where copies of drops and calls go
    that are new, if not into the store.
    """
    if "?" in str(path):  # DuckDB writes no database there: it takes what follows for options
        with TemporaryDirectory(prefix="synthmill-") as folder:
            fill(Path(folder) / path.name, store, calls, target)
            shutil.copyfile(Path(folder) / path.name, path)
        return
    with suppress(FileNotFoundError):
        shutil.copyfile(store.catalog, path)
    with connected(path, store) as database:
        update_tables(database, store)
        update_views(database, store)
        update_drops(database, store, store.root / DERIVED / DROPS, target and target / DROPS)
        if calls:
            update_calls(database, store, target and target / COPIES)
        if target is None and (store.root / DERIVED / ROWS).is_dir():
            index_rows(store.root / DERIVED / ROWS, parts_with_ids(database, store))


@contextmanager
def connected(path: Path, store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """A catalog to write to; an empty one where there is none, or one of another place (views hold absolute paths),
    another version, or a damaged one.
    """
    try:
        database = duckdb.connect(str(path))
        ours = is_ours(database, store)
    except duckdb.Error:
        ours = False
    if not ours:
        with suppress(UnboundLocalError):
            database.close()
        path.unlink(missing_ok=True)
        database = duckdb.connect(str(path))
        create_tables(database, store)
        replace_view(database, "calls", NO_CALLS)
    with database:
        yield database


def is_ours(database: duckdb.DuckDBPyConnection, store: Store) -> bool:
    try:
        return database.execute("SELECT root, version FROM store").fetchall() == [(str(store.root), VERSION)]
    except duckdb.Error:
        return False


def update_calls(database: duckdb.DuckDBPyConnection, store: Store, target: Path | None) -> None:
    """The view of calls, over copies of the sealed segments, and what they cost."""
    if target is None:
        (store.calls / COPIES).mkdir(parents=True, exist_ok=True)
    seen = {"calls": modified(store.calls)}  # before anything is listed
    copies = copy_calls(store.calls, target)
    replace_view(database, "calls", f"SELECT * FROM {parquet(copies)}" if copies else NO_CALLS)
    database.execute("DELETE FROM spend")
    insert(database, "spend", [dict(zip(SPEND, [*who, *costs], strict=True)) for who, *costs in costs_in(store.calls)])
    remember(database, seen)


def costs_in(folder: Path) -> Iterator[tuple[tuple[str, ...], int, int, int, float]]:
    """What the calls of a folder cost, by who asked: answers, tokens in and out, mean seconds."""
    for who, (answers, prompt_tokens, completion_tokens, latency_s) in sorted(spent_in(folder).items()):
        yield who, int(answers), int(prompt_tokens), int(completion_tokens), round(latency_s / answers, 4)


@contextmanager
def opened(store: Store, *, calls: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """The catalog, up to date and read-only. calls: whether calls and spend have to be up to date.

    Raises InputError where there is no store, StoreError when no catalog can be made.
    """
    if not (store.root / "artifacts").is_dir():
        raise InputError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    database = current(store, calls)
    if database is None and is_writable(store):
        database = duckdb.connect(str(rebuild(store, calls=calls)), read_only=True)
    if database is not None:
        with database:
            yield database
        return
    with TemporaryDirectory(prefix="synthmill-") as folder:
        path = Path(folder) / store.catalog.name
        try:
            check_path(store.root)
            fill(path, store, calls, Path(folder))
            database = duckdb.connect(str(path), read_only=True)
        except (duckdb.Error, OSError) as error:
            raise cannot_make(store, error) from error
        with database:
            yield database


def current(store: Store, calls: bool) -> duckdb.DuckDBPyConnection | None:
    """The catalog as it is, if nothing was added to the store or deleted since."""
    folders = folders_of(store) | ({"calls": modified(store.calls)} if calls else {})
    try:
        database = duckdb.connect(str(store.catalog), read_only=True)
    except (duckdb.Error, UnicodeEncodeError):
        return None
    if is_ours(database, store):
        kept = dict(database.execute("SELECT folder, modified FROM internal.folders").fetchall())
        if {name: at for name, at in kept.items() if calls or name != "calls"} == folders:
            return database
    database.close()
    return None


def is_writable(store: Store) -> bool:
    """Whether we may write a catalog, here and over the one that there is."""
    effective = os.access in os.supports_effective_ids
    places = (store.root, store.root / ".catalog.lock", store.root / DERIVED, store.calls)
    return all(os.access(path, os.W_OK, effective_ids=effective) for path in places if path.exists())


def query(store: Store, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one query on the catalog, read-only; (columns, rows). Raises InputError for bad SQL and where there is no
    store, StoreError when no catalog can be made.
    """
    with opened(store) as database:
        return ask(database, sql)


def ask(database: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one query; (columns, rows). Raises InputError for bad SQL."""
    try:
        relation = database.sql(sql)
        return (relation.columns, relation.fetchall()) if relation is not None else ([], [])
    except (duckdb.Error, RuntimeError, OverflowError, UnicodeEncodeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"{reason}; `synthmill ls` shows what there is") from error
