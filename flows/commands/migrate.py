"""`synthmill migrate`: an older store, brought to this version's format."""

from pathlib import Path

from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import Store
from synthmill.storage.migrating import migrate


def migrate_store(place: Path) -> None:
    """Migrate a store, and print the formats it went through. Raises StoreError."""
    store = Store(place.expanduser().resolve())
    if not (store.root / "artifacts").is_dir():
        raise InputError(f"{store.root} is no synthmill store; name one with --store")
    formats = migrate(store)
    steps = " to ".join(map(str, formats))
    print(f"format {steps}" if len(formats) > 1 else f"format {steps}, which is this synthmill's: nothing to do")
