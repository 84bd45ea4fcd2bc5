"""Making what a plan says; the manifests in the store decide what has to be made. No Prefect is needed for it:
flows/making/prefect_flow.py adds a task per stage, and what its page shows.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from synthmill.flows.making.learning import with_lessons
from synthmill.flows.making.limiting import check_something_left, limits_of
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.step_maker import StepMaker, sweep_killed_runs, workers_of
from synthmill.flows.pages.card import publishable
from synthmill.flows.pages.own_files import OwnFiles
from synthmill.flows.pages.report import write_report
from synthmill.flows.terminal.quiet import TELEMETRY_OFF
from synthmill.flows.terminal.stopping import STOP, take_over
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import EngineLearned, Stopped, StoreError, SynthmillError
from synthmill.storage.artifacts import Store
from synthmill.storage.files import locked
from synthmill.storage.published.folder import write_dataset
from synthmill.storage.runs import RunRecord, StageRun, new_run, now, runs, write_run
from synthmill.tasks.running.guard import guarded
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import LockWait


class Audience:
    """Who else is told of a run; nobody is, by default. flow_run: the run's id there."""

    flow_run = ""

    def make(self, maker: StepMaker, planned: Planned, place: str) -> Manifest:
        """Make a step before their eyes. place: 2/5."""
        return maker.make(planned, f"{place} {planned.step}")

    def killed(self, run: RunRecord) -> None:
        """An earlier run was killed."""

    def nothing_new(self, line: str) -> None:
        """Everything is made."""

    def ended(self, record: RunRecord, page: Path | None) -> None:
        """The run is over, well or not. page: its report."""


NOBODY = Audience()
PREPARED_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)


@contextmanager
def prepared(plan: Plan) -> Iterator[None]:
    """Within it, the run that begins has its plan already."""
    token = PREPARED_PLAN.set(plan)
    try:
        yield
    finally:
        PREPARED_PLAN.reset(token)


def run_plan(make_plan: Callable[[], Plan], audience: Audience = NOBODY) -> RunRecord:
    """Plan, unless a plan is `prepared`, then make what is missing; plan anew where an engine learns how to ask its
    server.
    """
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    with guarded():
        take_over()
        plans = [plan] if (plan := PREPARED_PLAN.get()) else []

        def make() -> RunRecord:
            planned = plans.pop() if plans else make_plan()
            for run in sweep_killed_runs(planned.store):
                audience.killed(run)
            if planned.is_done() and (earlier := made_by(planned)):
                return say_done(earlier, audience)
            return make_all(planned, audience)

        return with_lessons(make)


def made_by(planned: Plan) -> RunRecord | None:
    """The run that made all of a plan."""
    done = [run for run in runs(planned.store) if run.dataset == str(planned.dataset) and run.status == "finished"]
    return done[-1] if done else None


def say_done(earlier: RunRecord, audience: Audience) -> RunRecord:
    """A schedule whose source has nothing new ends here."""
    line = f"nothing new: run {earlier.id} made all of it; nothing was asked or written"
    print(line, file=sys.stderr, flush=True)
    audience.nothing_new(line)
    return earlier


def make_all(planned: Plan, audience: Audience = NOBODY) -> RunRecord:
    """Make every step and the dataset; the run's record is written when it begins and, whatever happens, at its end."""
    settings, store = planned.settings, planned.store
    limits = limits_of(planned)
    record = new_run(planned.flow, settings.model_dump(mode="json"), planned.dataset.name, planned.method)
    record = write_run(store, record.model_copy(update={"flow_run": audience.flow_run}))
    steps: list[StageRun] = []
    status, error = "failed", ""
    dataset = ""
    try:
        with workers_of(store, record.id, settings.workers, settings.ray_address, limits) as pool:
            maker = StepMaker(store, pool, record.id, steps, limits, settings.budget, checks=False)
            manifests = make_steps(planned, maker, audience)
            own_files = OwnFiles.of(planned.own_files, planned.stages)
            published, card = publishable(
                store, planned.flow, planned.publish(manifests), manifests, settings, planned.method, own_files
            )
            with locked(store.lock_path("dataset", planned.dataset.name), LockWait("dataset", STOP)):
                if write_dataset(planned.dataset, published, card):
                    dataset = str(planned.dataset)
        status = "finished"
    except (Stopped, EngineLearned) as stopped:
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
        from synthmill.storage.catalog import rebuild  # DuckDB: not for a run that finds everything made

        with suppress(SynthmillError):  # nothing waits for the catalog: the next look at it makes it
            rebuild(store)
        audience.ended(record, draw_report(store, record))
    return record


def make_steps(planned: Plan, maker: StepMaker, audience: Audience = NOBODY) -> dict[str, Manifest]:
    """Read the sources and make every step; manifests by step."""
    for source in planned.sources:
        maker.read(source, planned.source_steps[source.key])
    trunk = planned.on_trunk()
    for number, step in enumerate(planned.stages, 1):
        manifest = audience.make(maker, step, f"{number}/{len(planned.stages)}")
        maker.settle(step, manifest)
        if step.key in trunk:
            check_something_left(planned.store, step.step, manifest)
    return planned.by_step(maker.manifests)


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
