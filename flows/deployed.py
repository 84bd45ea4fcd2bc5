"""Every method as a Prefect flow, made when it is asked for (`flows.deployed:synthesize`), and `publish`.

A dash of a method's name is an underscore here. Deployments name flows by such dotted entrypoints: Prefect loads a path
as a script instead.
"""

from typing import Any

from prefect import flow
from prefect.flows import Flow

from flows.commands.export import export
from flows.making.prefect_flow import prefect_flow
from flows.methods import identifier, method, methods
from schemas.errors import InputError
from schemas.export_settings import ExportSettings


def __getattr__(name: str) -> Flow[..., dict[str, Any]]:
    method_name = next((each for each in methods() if identifier(each) == name), None)
    if method_name is None:
        raise AttributeError(f"flows.deployed has no flow {name!r}")
    try:
        return prefect_flow(method(method_name))
    except InputError as error:
        raise AttributeError(error.message) from error


@flow(name="publish", flow_run_name="publish-{settings.run}", persist_result=False)
def publish(settings: ExportSettings) -> dict[str, Any]:
    """The latest finished run's dataset to a folder or the Hub; the same again says so and sends nothing.

    Returns what was written where. Raises InputError before anything is written, StoreError where the Hub fails.
    """
    return export(settings)
