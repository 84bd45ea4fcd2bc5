"""The catalog: `catalog.duckdb`, every artifact of a store as one database, for any DuckDB client.

It is derived: under a lock, a copy is brought up to date, then swapped in with a rename. Nothing waits for it, and
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

from synthmill.schemas.errors import InputError, StoreError
from synthmill.storage.artifacts import Store
from synthmill.storage.call_copies import COPIES, NO_CALLS, copy_calls
from synthmill.storage.catalog_update import (
    VERSION,
    create_tables,
    folders_of,
    modified_ns,
    remember_folders,
    update_tables,
)
from synthmill.storage.catalog_views import replace_view, update_drops, update_views
from synthmill.storage.files import write_atomically
from synthmill.storage.row_index import index_rows, parts_with_ids
from synthmill.storage.segments import seal_abandoned
from synthmill.storage.spending import Spending, spending_in
from synthmill.storage.sql import check_path, insert, parquet

DERIVED, DROPS, ROWS = "derived", "drops", "rows"


def rebuild(store: Store, *, calls: bool = True) -> Path:
    """Bring the catalog up to date and swap it in; returns its path. Safe while runs write and readers read.

    calls: whether calls and their costs are brought up to date, too. Raises StoreError when it cannot be made.
    """
    check_path(store.root)
    try:
        with locked_catalog(store):
            if calls:
                seal_abandoned(store.calls)
            try:
                write_atomically(store.catalog, lambda path: write_catalog(path, store, calls))
            except duckdb.Error:  # something derived is damaged
                delete_derived(store)
                write_atomically(store.catalog, lambda path: write_catalog(path, store, calls))
    except (duckdb.Error, OSError) as error:
        raise cannot_make(store, error) from error
    return store.catalog


def cannot_make(store: Store, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())[:300]
    return StoreError(f"cannot make {store.catalog}: {reason}; run the same command again to make what is damaged anew")


@contextmanager
def locked_catalog(store: Store) -> Iterator[None]:
    """Hold the lock that writers of the catalog and of its derived files take."""
    with (store.root / ".catalog.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def delete_derived(store: Store) -> None:
    """Delete the catalog and all derived files; the next catalog is made from nothing."""
    store.catalog.unlink(missing_ok=True)
    for folder in (store.calls / COPIES, store.root / DERIVED):
        shutil.rmtree(folder, ignore_errors=True)


def write_catalog(path: Path, store: Store, calls: bool, target: Path | None = None) -> None:
    """Write an up-to-date catalog to a path, from the existing one. target: where new copies of drops and calls go, if
    not into the store.
    """
    if "?" in str(path):  # DuckDB writes no database there: it takes what follows for options
        with TemporaryDirectory(prefix="synthmill-") as folder:
            write_catalog(Path(folder) / path.name, store, calls, target)
            shutil.copyfile(Path(folder) / path.name, path)
        return
    with suppress(FileNotFoundError):
        shutil.copyfile(store.catalog, path)
    with open_writable(path, store) as database:
        update_tables(database, store)
        update_views(database, store)
        update_drops(database, store, store.root / DERIVED / DROPS, target and target / DROPS)
        if calls:
            update_calls(database, store, target and target / COPIES)
        if target is None and (store.root / DERIVED / ROWS).is_dir():
            index_rows(store.root / DERIVED / ROWS, parts_with_ids(database, store))


@contextmanager
def open_writable(path: Path, store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a catalog to write to. It starts empty where there is none, where the existing one is damaged or of another
    version, or where it is of another place (views hold absolute paths).
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
    """Update the view of calls, over copies of the sealed segments, and the table of what they cost."""
    if target is None:
        (store.calls / COPIES).mkdir(parents=True, exist_ok=True)
    folders = {"calls": modified_ns(store.calls)}  # before listing files
    copies = copy_calls(store.calls, target)
    replace_view(database, "calls", f"SELECT * FROM {parquet(copies)}" if copies else NO_CALLS)
    database.execute("DELETE FROM spend")
    insert(database, "spend", [cost_row(spending) for spending in spending_in(store.calls)])
    remember_folders(database, folders)


def cost_row(spending: Spending) -> dict[str, Any]:
    """A row of the table `spend`."""
    counters = {name: int(number) for name, number in spending.counters.items() if name != "latency_s"}
    mean_latency_s = round(spending.counters["latency_s"] / spending.counters["calls"], 4)
    origin = {name: value for name, value in spending._asdict().items() if name != "counters"}
    return {**origin, **counters, "mean_latency_s": mean_latency_s}


@contextmanager
def open_catalog(store: Store, *, calls: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the catalog, up to date and read-only. calls: whether calls and spend have to be up to date.

    Raises InputError where there is no store, StoreError when no catalog can be made.
    """
    if not (store.root / "artifacts").is_dir():
        raise InputError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    database = open_current(store, calls)
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
            write_catalog(path, store, calls, Path(folder))
            database = duckdb.connect(str(path), read_only=True)
        except (duckdb.Error, OSError) as error:
            raise cannot_make(store, error) from error
        with database:
            yield database


def open_current(store: Store, calls: bool) -> duckdb.DuckDBPyConnection | None:
    """Open the catalog as it is, if nothing was added to the store or deleted since; else None."""
    folders = folders_of(store) | ({"calls": modified_ns(store.calls)} if calls else {})
    try:
        database = duckdb.connect(str(store.catalog), read_only=True)
    except (duckdb.Error, UnicodeEncodeError):
        return None
    if is_ours(database, store):
        recorded = dict(database.execute("SELECT folder, modified FROM internal.folders").fetchall())
        if {name: modified_at for name, modified_at in recorded.items() if calls or name != "calls"} == folders:
            return database
    database.close()
    return None


def is_writable(store: Store) -> bool:
    """Whether we may write the catalog, its lock and its derived files."""
    effective = os.access in os.supports_effective_ids
    places = (store.root, store.root / ".catalog.lock", store.root / DERIVED, store.calls)
    return all(os.access(path, os.W_OK, effective_ids=effective) for path in places if path.exists())


def query(store: Store, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one query on the catalog, read-only; (columns, rows). Raises InputError for bad SQL and where there is no
    store, StoreError when no catalog can be made.
    """
    with open_catalog(store) as database:
        return run_sql(database, sql)


def run_sql(database: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one query; (columns, rows). Raises InputError for bad SQL."""
    try:
        relation = database.sql(sql)
        return (relation.columns, relation.fetchall()) if relation is not None else ([], [])
    except (duckdb.Error, RuntimeError, OverflowError, UnicodeEncodeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"{reason}; `synthmill ls` shows what there is") from error
