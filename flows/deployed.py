"""Every method as a Prefect flow, made when it is asked for (`flows.deployed:synthesize`), and `publish`.

A dash of a method's name is an underscore here. Deployments name flows by such dotted entrypoints: Prefect loads a path
as a script instead.
"""

from functools import cache
from typing import Any

from prefect import flow
from prefect.flows import Flow
from prefect.runtime import flow_run

from flows.commands.export import export
from flows.making.make import run_plan
from flows.methods import identifier, method, methods
from schemas.errors import InputError
from schemas.export_settings import ExportSettings


def run_name() -> str:
    """What Prefect's page calls a run: its flow and its first file."""
    settings = flow_run.parameters["settings"]
    applications = getattr(settings, "applications", None)
    place = applications[0] if applications else getattr(getattr(settings, "source", None), "path", "")
    return "-".join(filter(None, (flow_run.flow_name, place)))


@cache
def flow_of(name: str) -> Flow[..., dict[str, Any]]:
    """A method's flow. Its parameter has the method's settings as its type, so that Prefect's form asks for them.

    Raises InputError where there is no such method.
    """
    known = method(name)
    plan, model = known.plan, known.settings

    def run(settings: Any) -> dict[str, Any]:
        return run_plan(lambda: plan(settings)).model_dump(mode="json")

    run.__name__ = run.__qualname__ = identifier(name)
    run.__annotations__["settings"] = model
    run.__doc__ = (
        f"{known.about}.\n\nRuns every stage that is not made yet; returns the run's record. Raises EngineError, "
        "InputError, StoreError, Stopped."
    )
    return flow(name=name, flow_run_name=run_name, persist_result=False)(run)


def __getattr__(name: str) -> Flow[..., dict[str, Any]]:
    known = next((known for known in methods() if identifier(known) == name), None)
    if known is None:
        raise AttributeError(f"flows.deployed has no flow {name!r}")
    try:
        return flow_of(known)
    except InputError as error:
        raise AttributeError(error.message) from error


@flow(name="publish", flow_run_name="publish-{settings.run}", persist_result=False)
def publish(settings: ExportSettings) -> dict[str, Any]:
    """The latest finished run's dataset to a folder or the Hub; the same again says so and sends nothing.

    Returns what was written where. Raises InputError before anything is written, StoreError where the Hub fails.
    """
    return export(settings)
