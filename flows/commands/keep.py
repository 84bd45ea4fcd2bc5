"""`synthmill verify`, `gc` and `migrate`: a store in order."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.commands.look import open_store
from flows.terminal.tables import table
from schemas.errors import InputError, StoreError
from storage.artifacts import Store
from storage.files import locked, sweep_lock
from storage.keeping import Fault, Garbage, garbage, verify
from storage.migrating import migrate
from storage.runs import runs, sweep_crashed_runs, sweeping_lock


def check(place: Path) -> None:
    """Read everything in a store. Raises StoreError where something is not as it was written."""
    store = open_store(place)
    mark_crashed(store)
    faults: list[Fault] = []
    looked = verify(store, faults)
    console = Console(emoji=False)
    for fault in faults:
        console.print(Text.assemble((f"{fault.place}: ", "bold"), fault.what), soft_wrap=True)
    said = ", ".join(f"{number:,} {name}" for name, number in looked._asdict().items())
    if faults:
        raise StoreError(f"{len(faults)} faults in {said}")
    console.print(f"whole: {said}", highlight=False)


def sweep_out(place: Path, days: float, delete: bool) -> None:
    """Say what nobody needs, and delete it if asked to: no run may start meanwhile."""
    store = open_store(place)
    mark_crashed(store)
    if not delete:
        listed = list(garbage(store, days))
        print_garbage(listed)
        print(f"{total_of(listed)} could go: --delete deletes them")
        return
    with locked(sweeping_lock(store), lambda: None):
        check_idle(store)
        deleted = list(garbage(store, days))
        for item in deleted:
            remove(store, item.path)
    print_garbage(deleted)
    if left := sum(item.path.exists() for item in deleted):
        raise StoreError(f"{left:,} of {total_of(deleted)} could not be deleted; look at who may write there")
    print(f"deleted {total_of(deleted)}")


def mark_crashed(store: Store) -> None:
    """Note which runs were killed; in a store that cannot be written they stay as they are."""
    with suppress(StoreError):
        for run in sweep_crashed_runs(store):
            print(f"run {run.id} ({run.flow}) was killed: {run.error}", file=sys.stderr)


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


def print_garbage(items: Sequence[Garbage]) -> None:
    sizes: dict[str, list[int]] = defaultdict(list)
    for item in items:
        sizes[item.why].append(item.size)
    if items:
        rows = table("what", "files", "bytes", numbers=("files", "bytes"))
        for why, some in sorted(sizes.items()):
            rows.add_row(why, f"{len(some):,}", f"{sum(some):,}")
        Console(emoji=False).print(rows)


def total_of(items: Sequence[Garbage]) -> str:
    return f"{len(items):,} files and folders, {sum(item.size for item in items):,} bytes"


def bring_up(place: Path) -> None:
    """Migrate a store, and say from where to where. Raises StoreError."""
    store = Store(place.expanduser().resolve())
    if not (store.root / "artifacts").is_dir():
        raise InputError(f"{store.root} is no synthmill store; name one with --store")
    formats = migrate(store)
    went = " to ".join(map(str, formats))
    print(f"format {went}" if len(formats) > 1 else f"format {went}, which is this synthmill's: nothing to do")
