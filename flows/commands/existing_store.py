"""The store that a command works on: it must be there."""

import sys
from contextlib import suppress
from pathlib import Path

from synthmill.schemas.errors import InputError, StoreError
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import sweep_crashed_runs
from synthmill.storage.sql import check_path


def existing_store(place: Path) -> Store:
    """An existing store; raises InputError when there is none."""
    store = Store(place.expanduser().resolve())
    check_path(store.root)
    if not (store.root / "artifacts").is_dir():
        raise InputError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    store.check_format()
    return store


def mark_crashed(store: Store) -> None:
    """Note which runs were killed; in a store that cannot be written they stay as they are."""
    with suppress(StoreError):
        for run in sweep_crashed_runs(store):
            print(f"run {run.id} ({run.flow}) was killed: {run.error}", file=sys.stderr)
