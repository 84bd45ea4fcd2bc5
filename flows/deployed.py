"""Every method as a Prefect flow, made when it is asked for (`synthmill.flows.deployed:synthesize`), and `publish`.

A dash of a method's name is an underscore here. Deployments name flows by such dotted entrypoints: Prefect loads a path
as a script instead.
"""

from typing import Any

from prefect import flow
from prefect.flows import Flow

from synthmill.flows.commands.export import export
from synthmill.flows.making.prefect_flow import prefect_flow
from synthmill.flows.methods import identifier, method, methods
from synthmill.schemas.errors import InputError
from synthmill.schemas.export_settings import ExportSettings


def __getattr__(name: str) -> Flow[..., dict[str, Any]]:
    method_name = next((each for each in methods() if identifier(each) == name), None)
    if method_name is None:
        raise AttributeError(f"synthmill.flows.deployed has no flow {name!r}")
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
