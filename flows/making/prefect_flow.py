"""A method as a Prefect flow."""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from prefect import flow
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.states import Completed

from synthmill.flows.making.make import SUBMITTED, run_plan
from synthmill.flows.making.plan import Plan
from synthmill.schemas.errors import BatchPending


class PlannedMethod(Protocol):
    """What a flow needs of a method: flows/methods/__init__.py has them."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def plan(self) -> Callable[[Any], Plan]: ...
    @property
    def settings(self) -> type[Any]: ...


def run_name() -> str:
    """What Prefect's page calls a run: its flow and its first file."""
    settings = flow_run.parameters["settings"]
    applications = getattr(settings, "applications", None)
    place = applications[0] if applications else getattr(getattr(settings, "source", None), "path", "")
    return "-".join(filter(None, (flow_run.flow_name, place)))


@cache
def prefect_flow(method: PlannedMethod) -> Flow[..., dict[str, Any]]:
    """A method's flow. Its parameter has the method's settings as its type, so that Prefect's form asks for them.

    Raises InputError where the method takes no settings.
    """
    plan = method.plan

    def run(settings: Any) -> dict[str, Any]:
        try:
            return run_plan(lambda: plan(settings)).model_dump(mode="json")
        except BatchPending as pending:  # no failure: a later run, by a schedule, goes on
            submitted = {SUBMITTED: pending.message}
            return Completed(name=SUBMITTED, message=pending.message, data=submitted)  # type: ignore[return-value]

    run.__name__ = run.__qualname__ = method.name.replace("-", "_")
    run.__annotations__["settings"] = method.settings
    run.__doc__ = (
        f"{method.about}.\n\nRuns every stage that is not made yet; returns the run's record, or {{{SUBMITTED}: ...}} "
        "where it does not wait for a batch. Raises EngineError, InputError, StoreError, Stopped."
    )
    return flow(name=method.name, flow_run_name=run_name, persist_result=False)(run)
