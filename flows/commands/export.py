"""`synthmill export`: a run's dataset in trainers' formats, split, with its card, to a folder or to the Hub."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.methods import method
from synthmill.flows.pages.exporting import export_run
from synthmill.schemas.export_settings import ExportSettings
from synthmill.storage.runs import find_run


def export(settings: ExportSettings, dry_run: bool = False) -> dict[str, Any]:
    """Write or push a dataset: what was written, and where. dry_run: only print what would be.

    Raises InputError before anything is written, StoreError where the Hub fails.
    """
    store = existing_store(Path(settings.store))
    run = find_run(store, settings.run, published=True)
    with suppress(Exception):  # it loads the types that know which of these settings name files
        method(run.method or run.flow).settings.model_validate(run.settings)
    return export_run(store, run, settings, dry_run)
