"""`synthmill verify`: every file of a store against what was written."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from synthmill.flows.commands.existing_store import existing_store, mark_crashed
from synthmill.flows.terminal.tables import print_json
from synthmill.schemas.errors import StoreError
from synthmill.storage.keeping import Fault, verify


def verify_store(place: Path, as_json: bool = False) -> None:
    """Read everything in a store. Raises StoreError where something is not as it was written."""
    store = existing_store(place)
    mark_crashed(store)
    faults: list[Fault] = []
    counts = verify(store, faults)
    if as_json:
        print_json({"whole": not faults, **counts._asdict(), "faults": [fault._asdict() for fault in faults]})
    console = Console(emoji=False, quiet=as_json)
    for fault in faults:
        console.print(Text.assemble((f"{fault.place}: ", "bold"), fault.what), soft_wrap=True)
    summary = ", ".join(f"{number:,} {name}" for name, number in counts._asdict().items())
    if faults:
        raise StoreError(f"{len(faults)} faults in {summary}")
    console.print(f"whole: {summary}", highlight=False)
