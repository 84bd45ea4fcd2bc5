"""A method as a Prefect flow: a task per stage, progress and the report on its page; its cache decides nothing."""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed

from synthmill.flows.making.make import Audience, run_plan
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.step_maker import StepMaker
from synthmill.flows.serving.telling import LAST_WORD_S, PrefectProgress, in_background
from synthmill.flows.terminal.stopping import STOP
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import BatchPending, EngineError, EngineRefused
from synthmill.storage.runs import RunRecord, summary
from synthmill.tasks.running.job import Planned

SUBMITTED = "Submitted"
"""What Prefect's page calls a stage and a run that wait for a batch; a state of the kind COMPLETED."""


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
    """What Prefect's page calls a run: its flow, or its pipeline, and its first file."""
    settings = flow_run.parameters["settings"]
    applications = getattr(settings, "applications", None)
    place = applications[0] if applications else getattr(getattr(settings, "source", None), "path", "")
    name = getattr(settings, "name", "") or flow_run.flow_name
    return "-".join(filter(None, (name, place)))


@cache
def prefect_flow(method: PlannedMethod) -> Flow[..., dict[str, Any]]:
    """A method's flow. Its parameter has the method's settings as its type, so that Prefect's form asks for them.

    Raises InputError where the method takes no settings.
    """
    plan = method.plan

    def run(settings: Any) -> dict[str, Any]:
        try:
            return run_plan(lambda: plan(settings), PrefectPage()).model_dump(mode="json")
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


def engine_errors_only(_task: Any, _run: Any, state: Any) -> bool:
    """Retry a stage whose engine was away; everything else would fail the same way again."""
    try:
        state.result()
    except EngineRefused:
        return False
    except EngineError as error:
        print(f"{error.message}; trying again for a while", file=sys.stderr, flush=True)
        return not STOP.is_set()
    except Exception:
        return False
    return False


@task(
    task_run_name="{name}",
    tags=["stage"],
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_jitter_factor=0.5,
    retry_condition_fn=engine_errors_only,
)
def make_stage(name: str, place: str, planned: Planned, maker: StepMaker) -> Manifest | State[None]:
    """Make one stage's artifact, or find it made. Where it is submitted as a batch that the run does not wait for, a
    state says so: that is no failure.
    """
    tell, last_line = PrefectProgress(name), ""
    tell(0.0, f"{maker.manifests[planned.source_key].rows} rows in")

    def follow(percent: float, line: str) -> None:
        nonlocal last_line
        last_line = line
        tell(percent, line)

    try:
        manifest = maker.make(planned, f"{place} {name}", follow)
    except BatchPending as pending:
        return Completed(name=SUBMITTED, message=pending.message)
    tell.last(last_line)
    return manifest


class PrefectPage(Audience):
    """Prefect's page shows the run that this flow run is of."""

    def __init__(self) -> None:
        self.context = FlowRunContext.get()
        self.flow_run = str(self.context.flow_run.id) if self.context and self.context.flow_run else ""

    def make(self, maker: StepMaker, planned: Planned, place: str) -> Manifest:
        outcome = make_stage(planned.step, place, planned, maker)
        if isinstance(outcome, State):
            raise BatchPending(outcome.message or SUBMITTED)
        return outcome

    def killed(self, run: RunRecord) -> None:
        """It would run for ever there."""
        if run.flow_run:
            with suppress(Exception), get_client(sync_client=True) as client:  # another server's, perhaps
                client.set_flow_run_state(UUID(run.flow_run), Crashed(message=run.error), force=True)

    def nothing_new(self, line: str) -> None:
        if self.context:
            in_background(lambda: create_markdown_artifact(markdown=line, key="summary")).join(LAST_WORD_S)

    def ended(self, record: RunRecord, page: Path | None) -> None:
        if self.context:
            in_background(lambda: show(record, page)).join(LAST_WORD_S)


def show(record: RunRecord, page: Path | None) -> None:
    """The run's summary and its report on Prefect's page."""
    create_markdown_artifact(markdown=summary(record), key="summary", description=f"{record.flow} {record.id}")
    if page:
        create_link_artifact(link=page.as_uri(), link_text=page.name, key="report", description=record.id)
