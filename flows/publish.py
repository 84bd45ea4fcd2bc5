"""publish: the latest finished run's dataset to a folder or the Hub; the same again says so and sends nothing."""

from typing import Any

from prefect import flow

from flows.commands.export import export
from schemas.export_settings import ExportSettings


@flow(name="publish", flow_run_name="publish-{settings.run}", persist_result=False)
def publish(settings: ExportSettings) -> dict[str, Any]:
    """What was written where. Raises InputError before anything is written, StoreError where the Hub fails."""
    return export(settings)
