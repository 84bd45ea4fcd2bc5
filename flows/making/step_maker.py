"""How steps are made, whoever asks: a flow, a command, a session. One run's workers, limits and list of steps."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from synthmill.flows.making.checks import check_engine
from synthmill.flows.making.plan import Source
from synthmill.flows.terminal.progress import Cost, Reporter
from synthmill.flows.terminal.stopping import STOP, working
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import BudgetSettings, usage_of
from synthmill.schemas.errors import SynthmillError
from synthmill.schemas.progress import Progress
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import RunRecord, StageRun, record_run, sweep_crashed_runs
from synthmill.storage.segments import seal_abandoned
from synthmill.tasks.engines.engine import engine_name
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.limits import NO_LIMITS, RunLimits
from synthmill.tasks.running.parallel import RayPool, make_pool
from synthmill.tasks.running.stages import run_stage
from synthmill.tasks.scorers.judgements import note_unread

Pool = InProcess | RayPool
Tell = Callable[[float, str], None]
"""Takes a step's progress: percent of its rows, and a line."""
NO_PRICES = BudgetSettings()


@contextmanager
def workers_of(
    store: Store,
    run: str,
    workers: int | None,
    ray_address: str | None,
    limits: RunLimits = NO_LIMITS,
    stop: threading.Event = STOP,
) -> Iterator[Pool]:
    """A run's workers. At the end they seal what they wrote; a disk too full for that takes nothing that was answered:
    unsealed segments are read as they are.
    """
    seal_abandoned(store.calls)  # once, before every worker finds what an earlier version, or a killed run, left
    pool = make_pool(store, run, stop, workers, ray_address, limits)
    try:
        yield pool
    finally:
        for end in (pool.close, lambda: seal_abandoned(store.calls)):
            try:
                end()
            except (OSError, SynthmillError) as error:
                print(f"not all could be closed: {error}", file=sys.stderr, flush=True)


class StepMaker:
    """Makes the steps of a run, one after the other. steps: takes what each came to; prices: of engines, for progress;
    checks: whether a step's engines are looked at before it asks them.
    """

    def __init__(
        self,
        store: Store,
        pool: Pool,
        run: str,
        steps: list[StageRun],
        limits: RunLimits = NO_LIMITS,
        prices: BudgetSettings = NO_PRICES,
        *,
        checks: bool = True,
    ) -> None:
        self.store, self.pool, self.run, self.steps = store, pool, run, steps
        self.limits, self.prices, self.checks = limits, prices, checks
        self.manifests: dict[str, Manifest] = {}
        """What is made so far, by key."""
        self._checked: set[str] = set()

    def read(self, source: Source, step: str = "") -> Manifest:
        """A source's rows. Raises InputError when it cannot be read, or no row is usable."""
        manifest = self.manifests[source.key] = source.ingest(self.run)
        self.steps.append(StageRun.of(manifest, {}, 0.0, step))
        return manifest

    def make(self, planned: Planned, title: str = "", tell: Tell = lambda *_: None) -> Manifest:
        """A step's artifact, from the one that `planned` names, which is made: found, or made under its lock, with a
        line of progress. title: what the line begins with, if not the step's id.

        Raises EngineError, InputError, StoreError, Stopped; what was answered stays.
        """
        source = self.manifests[planned.source_key]
        if self.checks and planned.roles and not planned.sealed(self.store, source):
            self.check_engines(planned)
        started = time.monotonic()
        cost = cost_of(planned, self.prices)
        calls = source.rows * planned.stage.requests_per_row() if isinstance(planned.stage, Recipe) else 0
        with Reporter(title or planned.step, source.rows, cost=cost, calls=calls) as report:

            def on_progress(latest: Progress) -> None:
                report(latest)
                if source.rows:
                    tell(min(100.0, 100 * latest.rows / source.rows), report.line())

            manifest = run_stage(self.store, planned, source, self.pool, self.run, on_progress)
        tell(100.0, report.line())
        self.manifests[planned.key] = manifest
        spent, seconds = report.latest.spent, time.monotonic() - started
        self.steps.append(StageRun.of(manifest, spent, seconds, planned.step, cost(spent)))
        return manifest

    def settle(self, planned: Planned, manifest: Manifest) -> None:
        """After a step: hold its limits, and say what of it could not be read. Raises LimitReached."""
        self.limits.check(planned, manifest)
        if note := note_unread(self.store, manifest):
            print(note, file=sys.stderr, flush=True)

    def check_engines(self, planned: Planned) -> None:
        """Look at a step's servers, each of them once. Raises EngineError."""
        for settings in planned.roles.values():
            if (engine := settings.model_dump_json()) not in self._checked:
                check_engine(settings)
                self._checked.add(engine)


def cost_of(planned: Planned, prices: BudgetSettings) -> Cost:
    """Money for what each role of a step spent."""
    engines = {role: engine_name(settings) for role, settings in planned.roles.items()}

    def cost(spent: Mapping[str, Mapping[str, int]]) -> float:
        return sum(usage_of(prices, engines[role], 0, counters).money for role, counters in spent.items())

    return cost


@contextmanager
def step_maker(store: Store, record: RunRecord, workers: int | None, ray_address: str | None) -> Iterator[StepMaker]:
    """A command's run: what makes its steps; its workers are closed and its record is written whatever happens."""
    with (
        working(),
        record_run(store, record) as steps,
        workers_of(store, record.id, workers, ray_address) as pool,
    ):
        yield StepMaker(store, pool, record.id, steps)


def sweep_killed_runs(store: Store) -> list[RunRecord]:
    """Mark runs whose process is gone, and say so; returns them."""
    killed = sweep_crashed_runs(store)
    for run in killed:
        print(f"run {run.id} ({run.flow}) was killed; what it was answered is used", file=sys.stderr, flush=True)
    return killed
