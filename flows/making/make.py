"""Making what a plan says: one Prefect task per stage; the manifests in the store decide what has to be made, never
Prefect's cache.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Crashed

from synthmill.flows.making.limiting import check_something_left, limits_of
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.session import workers_of
from synthmill.flows.pages.card import publishable
from synthmill.flows.pages.report import write_report
from synthmill.flows.serving.telling import LAST_WORD_S, PrefectProgress, in_background
from synthmill.flows.terminal.progress import Reporter
from synthmill.flows.terminal.quiet import TELEMETRY_OFF
from synthmill.flows.terminal.stopping import STOP, take_over
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import BudgetSettings, usage_of
from synthmill.schemas.errors import BatchPending, EngineError, EngineRefused, Stopped, StoreError, SynthmillError
from synthmill.schemas.progress import Progress
from synthmill.storage.artifacts import Store
from synthmill.storage.catalog import rebuild
from synthmill.storage.files import locked
from synthmill.storage.published.folder import write_dataset
from synthmill.storage.runs import RunRecord, StageRun, new_run, now, runs, summary, sweep_crashed_runs, write_run
from synthmill.tasks.engines.engine import engine_name
from synthmill.tasks.running.guard import guarded
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.limits import RunLimits
from synthmill.tasks.running.parallel import RayPool
from synthmill.tasks.running.stages import LockWait, run_stage
from synthmill.tasks.scorers.judgements import note_unread

SUBMITTED = "Submitted"
"""What Prefect's page calls a stage and a run that wait for a batch; a state of the kind COMPLETED."""


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
def make_stage(
    name: str,
    place: str,
    store: Store,
    planned: Planned,
    source: Manifest,
    pool: InProcess | RayPool,
    run: str,
    prices: BudgetSettings,
) -> tuple[Manifest, StageRun] | State[None]:
    """Make one stage's artifact, or find it made; what this run spent on it comes beside the manifest.

    Where the stage is submitted as a batch that the run does not wait for, a state says so: that is no failure.
    """
    started = time.monotonic()
    tell = PrefectProgress(name)
    tell(0.0, f"{source.rows} rows in")
    engines = {role: engine_name(settings) for role, settings in planned.roles.items()}

    def cost(spent: Mapping[str, Mapping[str, int]]) -> float:
        tokens = [(engines[role], n["prompt_tokens"], n["completion_tokens"]) for role, n in spent.items()]
        return sum(usage_of(prices, engine, 0, *both).money for engine, *both in tokens)

    with Reporter(f"{place} {name}", source.rows, cost=cost) as report:

        def on_progress(latest: Progress) -> None:
            report(latest)
            if source.rows:
                tell(min(100.0, 100 * latest.rows / source.rows), report.line())

        try:
            manifest = run_stage(store, planned, source, pool, run, on_progress)
        except BatchPending as pending:
            return Completed(name=SUBMITTED, message=pending.message)
    tell.last(report.line())
    return manifest, StageRun.of(manifest, report.latest.spent, time.monotonic() - started, planned.step)


def show(record: RunRecord, page: Path | None) -> None:
    """The run's summary and its report on Prefect's page."""
    create_markdown_artifact(markdown=summary(record), key="summary", description=f"{record.flow} {record.id}")
    if page:
        create_link_artifact(link=page.as_uri(), link_text=page.name, key="report", description=record.id)


def made_by(planned: Plan) -> RunRecord | None:
    """The run that made all of a plan."""
    done = [run for run in runs(planned.store) if run.dataset == str(planned.dataset) and run.status == "finished"]
    return done[-1] if done else None


def say_done(earlier: RunRecord) -> RunRecord:
    """A schedule whose source has nothing new ends here."""
    line = f"nothing new: run {earlier.id} made all of it; nothing was asked or written"
    print(line, file=sys.stderr, flush=True)
    if FlowRunContext.get():
        in_background(lambda: create_markdown_artifact(markdown=line, key="summary")).join(LAST_WORD_S)
    return earlier


PREPARED_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)
"""The plan of the flow that is about to run, where it is made already."""


def run_plan(make_plan: Callable[[], Plan]) -> RunRecord:
    """Plan, unless a plan was handed on, then make what is missing, inside a flow run."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    with guarded():
        take_over()
        planned = PREPARED_PLAN.get() or make_plan()
        mark_crashed(planned.store)
        if planned.is_done() and (earlier := made_by(planned)):
            return say_done(earlier)
        return make_all(planned)


def make_all(planned: Plan) -> RunRecord:
    """Make every step and the dataset; the run's record is written when it begins and, whatever happens, at its end."""
    settings, store = planned.settings, planned.store
    limits = limits_of(planned)
    record = new_run(planned.flow, settings.model_dump(mode="json"), planned.dataset.name, planned.method)
    context = FlowRunContext.get()
    flow_run = str(context.flow_run.id) if context and context.flow_run else ""
    record = write_run(store, record.model_copy(update={"flow_run": flow_run}))
    steps: list[StageRun] = []
    status, error = "failed", ""
    dataset = ""
    try:
        with workers_of(store, record.id, settings.workers, settings.ray_address, limits) as pool:
            manifests = make_steps(planned, pool, record.id, limits, steps)
            published, card = publishable(store, planned.flow, planned.publish(manifests), manifests, settings)
            with locked(store.lock_path("dataset", planned.dataset.name), LockWait("dataset", STOP)):
                if write_dataset(planned.dataset, published, card):
                    dataset = str(planned.dataset)
        status = "finished"
    except Stopped as stopped:
        status, error = "stopped", stopped.message
        raise
    except SynthmillError as failure:
        error = failure.message
        raise
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        ended = {"status": status, "error": error, "stages": tuple(steps), "dataset": dataset, "ended_at": now()}
        record = record.model_copy(update=ended)
        try:
            write_run(store, record)
        except StoreError as failure:
            print(f"the run's record is not written: {failure.message}", file=sys.stderr, flush=True)
        with suppress(SynthmillError):  # nothing waits for the catalog: the next look at it makes it
            rebuild(store)
        page = draw_report(store, record)
        if context:
            in_background(lambda: show(record, page)).join(LAST_WORD_S)
    return record


def make_steps(
    planned: Plan, pool: InProcess | RayPool, run: str, limits: RunLimits, steps: list[StageRun]
) -> dict[str, Manifest]:
    """Read the sources and make every step; manifests by step. steps: takes what each came to, as it is made."""
    by_key: dict[str, Manifest] = {}
    for source in planned.sources:
        by_key[source.key] = source.ingest(run)
        steps.append(StageRun.of(by_key[source.key], {}, 0.0, planned.source_steps[source.key]))
    trunk = planned.on_trunk()
    for number, step in enumerate(planned.stages, 1):
        place, prices = f"{number}/{len(planned.stages)}", planned.settings.budget
        origin = by_key[step.source_key]
        outcome = make_stage(step.step, place, planned.store, step, origin, pool, run, prices)
        if isinstance(outcome, State):
            raise BatchPending(outcome.message or SUBMITTED)
        manifest, step_run = outcome
        by_key[step.key] = manifest
        steps.append(step_run)
        limits.check(step, manifest)
        if note := note_unread(planned.store, manifest):
            print(note, file=sys.stderr, flush=True)
        if step.key in trunk:
            check_something_left(planned.store, manifest)
    return planned.by_step(by_key)


def mark_crashed(store: Store) -> None:
    """Runs that were killed, here and on Prefect's page, where they would run for ever."""
    for run in sweep_crashed_runs(store):
        print(f"run {run.id} ({run.flow}) was killed; what it was answered is used", file=sys.stderr, flush=True)
        if run.flow_run:
            with suppress(Exception), get_client(sync_client=True) as client:  # another server's, perhaps
                client.set_flow_run_state(UUID(run.flow_run), Crashed(message=run.error), force=True)


def draw_report(store: Store, record: RunRecord) -> Path | None:
    """A run's report; a fault in drawing it costs nobody their run."""
    try:
        return write_report(store, record)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        print(
            f"no report ({type(error).__name__}: {reason}); `synthmill report {record.id}` tries again", file=sys.stderr
        )
        return None
