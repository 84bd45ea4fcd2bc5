"""Migrate a store from an older format to this one, step by step; after a kill, the same command goes on."""

from collections.abc import Callable, Mapping

from synthmill.schemas.artifacts import FORMAT
from synthmill.storage.artifacts import Store, format_of, write_marker

STEPS: Mapping[int, Callable[[Store], None]] = {}
"""From a format to the next one. A step may run again over its own half-done work. Format 1 is the first."""


def migrate(store: Store) -> list[int]:
    """Migrate a store; returns its formats, the oldest first. Raises StoreError for a newer format or none."""
    formats = [format_of(store)]
    while formats[-1] < FORMAT:
        STEPS[formats[-1]](store)
        formats.append(formats[-1] + 1)
        write_marker(store, formats[-1])
    return formats
