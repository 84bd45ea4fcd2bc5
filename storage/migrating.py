"""From an older store format to this one, step by step; killed in the middle, the same command goes on."""

from collections.abc import Callable, Mapping

from schemas.artifacts import FORMAT
from storage.artifacts import Store, format_of, write_marker

STEPS: Mapping[int, Callable[[Store], None]] = {}
"""From a format to the next one. A step may be run again over what it has half done. Format 1 is the first."""


def migrate(store: Store) -> list[int]:
    """The formats a store went through, its own first. Raises StoreError for a newer one, or none at all."""
    found = [format_of(store)]
    while found[-1] < FORMAT:
        STEPS[found[-1]](store)
        found.append(found[-1] + 1)
        write_marker(store, found[-1])
    return found
