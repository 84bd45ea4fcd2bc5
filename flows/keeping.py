"""`synthmill verify`, `gc` and `migrate`: a store in order."""

import shutil
import sys
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.looking import open_store, table
from schemas.errors import InputError, StoreError
from storage.artifacts import Store
from storage.files import sweep_lock
from storage.keeping import Fault, garbage, verify
from storage.migrating import migrate
from storage.runs import runs, sweep


def check(place: Path) -> None:
    """Read everything in a store. Raises StoreError where something is not as it was written."""
    store = open_store(place)
    for run in sweep(store):
        print(f"run {run.id} ({run.flow}) was killed: {run.error}", file=sys.stderr)
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
    """Say what nobody needs, and delete it if asked to."""
    store = open_store(place)
    sweep(store)
    if delete and (busy := [run for run in runs(store) if run.status == "running"]):
        raise StoreError(
            f"run {busy[0].id} ({busy[0].flow}) is under way, and may need what nobody names yet; wait, or "
            f"delete {store.runs / busy[0].id}.json if it runs no more"
        )
    found = list(garbage(store, days))
    sizes: dict[str, list[int]] = defaultdict(list)
    for one in found:
        sizes[one.why].append(one.size)
        if delete:
            if one.path.parent == store.lock_path("", "").parent:
                sweep_lock(one.path)
            elif one.path.is_dir():
                shutil.rmtree(one.path, ignore_errors=True)
            else:
                one.path.unlink(missing_ok=True)
    console = Console(emoji=False)
    shown = table("what", "files", "bytes", numbers=("files", "bytes"))
    for why, some in sorted(sizes.items()):
        shown.add_row(why, f"{len(some):,}", f"{sum(some):,}")
    if found:
        console.print(shown)
    total = f"{len(found):,} files and folders, {sum(one.size for one in found):,} bytes"
    if delete and (left := sum(one.path.exists() for one in found)):
        raise StoreError(f"{left:,} of {total} could not be deleted; look at who may write there")
    console.print(f"deleted {total}" if delete else f"{total} could go: --delete deletes them", highlight=False)


def bring_up(place: Path) -> None:
    """Migrate a store, and say from where to where. Raises StoreError."""
    store = Store(place.expanduser().resolve())
    if not (store.root / "artifacts").is_dir():
        raise InputError(f"{store.root} is no synthmill store; name one with --store")
    formats = migrate(store)
    went = " to ".join(map(str, formats))
    print(f"format {went}" if len(formats) > 1 else f"format {went}, which is this synthmill's: nothing to do")
