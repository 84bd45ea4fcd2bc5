"""`synthmill gc`: what no run or dataset refers to, listed or deleted."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from synthmill.flows.commands.existing_store import existing_store, mark_crashed
from synthmill.flows.terminal.tables import print_json, table
from synthmill.schemas.errors import StoreError
from synthmill.storage.artifacts import Store
from synthmill.storage.files import locked, sweep_lock
from synthmill.storage.keeping import Garbage, garbage
from synthmill.storage.runs import runs, sweeping_lock


def collect_garbage(place: Path, days: float, delete: bool, as_json: bool = False) -> None:
    """List what nothing refers to, or delete it while no run can start. Raises StoreError where that is impossible."""
    store = existing_store(place)
    mark_crashed(store)
    if not delete:
        print_garbage(unneeded := list(garbage(store, days)), as_json)
        if not as_json:
            print(f"{total_of(unneeded)} could go: --delete deletes them")
        return
    with locked(sweeping_lock(store), lambda: None):
        check_idle(store)
        unneeded = list(garbage(store, days))
        for file in unneeded:
            remove(store, file.path)
    print_garbage(unneeded, as_json)
    if undeleted := sum(file.path.exists() for file in unneeded):
        raise StoreError(f"{undeleted:,} of {total_of(unneeded)} could not be deleted; look at who may write there")
    if not as_json:
        print(f"deleted {total_of(unneeded)}")


def check_idle(store: Store) -> None:
    """Raises StoreError while a run is under way."""
    for run in runs(store):
        if run.status == "running":
            raise StoreError(
                f"run {run.id} ({run.flow}) is under way, and may need what nobody names yet; wait, or "
                f"delete {store.runs / run.id}.json if it runs no more"
            )


def remove(store: Store, path: Path) -> None:
    if path.parent == store.lock_path("", "").parent:
        sweep_lock(path)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def print_garbage(files: Sequence[Garbage], as_json: bool) -> None:
    """Files and bytes by the reason why they could go, or each file as JSON."""
    if as_json:
        print_json([file._asdict() for file in files])
        return
    sizes_by_reason: dict[str, list[int]] = defaultdict(list)
    for file in files:
        sizes_by_reason[file.why].append(file.size)
    if files:
        lines = table("what", "files", "bytes", numbers=("files", "bytes"))
        for reason, sizes in sorted(sizes_by_reason.items()):
            lines.add_row(reason, f"{len(sizes):,}", f"{sum(sizes):,}")
        Console(emoji=False).print(lines)


def total_of(files: Sequence[Garbage]) -> str:
    return f"{len(files):,} files and folders, {sum(file.size for file in files):,} bytes"
