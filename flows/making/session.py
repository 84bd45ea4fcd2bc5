"""A session: stages made one after the other from Python, without Prefect, with the keys and locks of a flow.

    with Session("store", engines={"teacher": "openai:m@http://localhost:8000/v1"}, seed=1) as session:
        prompts = session.read("prompts.jsonl")
        pools = session.make(prompts, PoolAnswers(policies=("teacher",), count=8), R3Scores())
        pairs = session.make(pools, PoolPairs(cuts=("rip", "sweet-spot"), reward="r3"))
        session.publish("out", preference=pairs)

What is made already is found, whoever made it. docs/python.md.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from synthmill.flows.making.estimates import estimates
from synthmill.flows.making.learning import with_lessons
from synthmill.flows.making.limiting import check_prices, check_something_left
from synthmill.flows.making.made import Made
from synthmill.flows.making.open_run import OpenRun
from synthmill.flows.making.plan import open_store
from synthmill.flows.making.publishing import publish_tables
from synthmill.flows.making.reading import reading_of
from synthmill.flows.making.step_maker import StepMaker
from synthmill.flows.making.step_maker import workers_of as workers_of
from synthmill.flows.making.steps import KnownArtifact, StepPlanner
from synthmill.flows.terminal.progress import shows_progress
from synthmill.flows.terminal.stopping import STOP, working
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import BudgetSettings
from synthmill.schemas.errors import STOPPED, InputError, Stopped, SynthmillError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.settings import EngineSettings, RunSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.engines.engine import engine_name, resolve
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Planned, Stage

NOTHING: Mapping[str, Any] = {}


class Session:
    """Reads sources and makes stages, at once, in a store. Use it in a `with` block, or call `close`; otherwise it is
    closed when it is garbage, or at exit.

    engines: role -> engine, as in a YAML file (a text, or a mapping with `spec`); a role that is not named is played
    by `teacher`. workers: 0 works in this process, more are Ray actors, None is what the engines need. budget: as in a
    YAML file; all sessions of this `name` in the store spend from it. name: of the session's runs. progress: whether a
    bar or lines are shown. All other settings are those of a flow. Raises InputError, StoreError.
    """

    def __init__(
        self,
        store: str | PathLike[str] = "store",
        *,
        engines: Mapping[str, Any] | None = None,
        workers: int | None = 0,
        seed: int = 0,
        embedder: str = "minilm",
        rows_per_part: int = 256,
        budget: Mapping[str, Any] | BudgetSettings | None = None,
        drop_limit: float = 0.2,
        retry_lost: bool = False,
        ray_address: str | None = None,
        name: str = "session",
        progress: bool = True,
    ) -> None:
        values: dict[str, Any] = {"store": fspath(store), "workers": workers, "seed": seed, "embedder": embedder}
        values |= {"rows_per_part": rows_per_part, "drop_limit": drop_limit}
        values |= {"retry_lost": retry_lost, "ray_address": ray_address}
        values |= {"engines": dict(engines)} if engines is not None else {}
        values |= {"budget": budget} if budget is not None else {}
        self.settings = read_settings(RunSettings, None, values)
        self.store = open_store(self.settings)
        self.progress = progress
        self._run = OpenRun(self.store, self.settings, name)
        self._engines: dict[str, EngineSettings] = {}
        self._known: dict[str, KnownArtifact] = {}
        self._finalizer = weakref.finalize(self, self._run.end)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._run.fail(error)
        self.close()

    def close(self) -> None:
        """End the session: its workers are closed, its run's record is written. A second call does nothing."""
        self._finalizer()

    def read(self, source: Any, kind: str = "", *, step: str = "", **options: Any) -> Made:
        """The rows of a path, a polars or pandas frame, an Arrow table, a list of dicts or a `datasets.Dataset`; or
        N rows from nothing, for `Attributes`: {"rows": N}.

        All columns are kept, and go on with what is made of the rows. Rows without an `id` get a hash of their content;
        a second row with an id is dropped. kind: reads a file as a flow does, and so shares its keys: prompts,
        questions, bench, known_prompts, turns, passages, pools. options: id_column, limit, license; with a kind also
        prompt_column and whatever else the flow's source takes. step: the id of this step. Raises InputError.
        """
        with self._working() as maker:
            reading = reading_of(self.store, source, kind, self.settings.rows_per_part, options)
            step = self._run.step_id(step or reading.source.stage, reading.source.key)
            manifest = maker.read(reading.source, step)
            self._run.note_step(manifest.key)
            self._run.sources[step] = reading.facts
            planner = StepPlanner(self.settings, self._engine)
            source = replace(reading.source, step=step)
            planner.add_source(source, reading.columns, carried=reading.is_table, from_nothing=reading.from_nothing)
            return self._made(planner.known[step], manifest)

    def make(self, source: Any, *stages: Stage, step: str = "") -> Made:
        """What the stages make of a source, each of what the one before it made; found where it is made already.

        source: what `read` or `make` returned, or anything that `read` takes. step: the id of the last step, where it
        should have another name than its stage. Raises InputError before anything is asked, EngineError, StoreError,
        Stopped after Ctrl-C (LimitReached at a limit); what was answered is kept, and the session goes on.
        """
        rows = source if isinstance(source, Made) else self.read(source)
        return with_lessons(lambda: self._make_all(rows, stages, step), self._engines.clear)

    def _make_all(self, rows: Made, stages: Sequence[Stage], step: str) -> Made:
        with self._working() as maker:
            ids = dict(self._run.ids)
            planner = self._plan(rows, stages, step, ids)
            self._run.ids = ids
            maker.manifests[rows.key] = rows.manifest
            for planned in planner.planned:
                rows = self._make(maker, planned, planner.known[planned.step])
        return rows

    def plan(self, source: Any, *stages: Stage) -> pl.DataFrame:
        """What `make` would do, a row per step, without asking anything: step, stage, key, made (already), and at most
        so many rows, calls and tokens. Raises InputError as `make`.
        """
        start = source if isinstance(source, Made) else self.read(source)
        self._check_open()
        planned = self._plan(start, stages, "", dict(self._run.ids)).planned
        rows = [
            {
                "step": estimate.planned.step,
                "stage": estimate.planned.stage.name,
                "key": estimate.planned.key,
                "made": estimate.is_made,
                "rows": estimate.rows,
                "calls": estimate.calls,
                "tokens": estimate.tokens,
            }
            for estimate in estimates(self.store, planned, {start.key: start.rows})
        ]
        return pl.DataFrame(rows)

    def publish(self, to: str | PathLike[str], tables: Mapping[str, Made] | None = None, **options: Any) -> Path | str:
        """Write a dataset folder as `synthmill export` does, with card, report and formats: the folder, or the Hub's
        address. tables: configuration -> rows; they may also be given by keyword: publish("out", preference=pairs).

        options: title, intro, formats, test (a share for a split), license, shard_bytes, force; Hub: private, revision,
        tag. Raises InputError before anything is written.
        """
        with self._working():
            return publish_tables(self._run, fspath(to), tables or {}, options)

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise InputError(
                f"this session has ended; make another one, Session({str(self.store.root)!r}): it finds what was made"
            )

    @contextmanager
    def _working(self) -> Iterator[StepMaker]:
        """Work that Ctrl-C drains and that leaves no process behind; afterwards this process is as it was."""
        self._check_open()
        with shows_progress(self.progress), working():
            try:
                yield self._run.maker()
                if STOP.is_set():  # while nothing looked at it
                    raise Stopped(STOPPED)
            except BaseException as error:
                self._run.fail(error)
                if not isinstance(error, SynthmillError) or isinstance(error, Stopped):
                    self._run.close_workers()  # the next work starts with fresh ones
                raise
            self._run.recover()

    def _plan(self, made: Made, stages: Sequence[Stage], last_step: str, ids: dict[str, str]) -> StepPlanner:
        """The stages in their places, checked against the columns that they get. ids: takes ids of steps."""
        if made.store.root != self.store.root:
            raise InputError(f"{made!r} is in the store {made.store.root}; this session works in {self.store.root}")
        if not stages:
            raise InputError("there is no stage to make; expected one at least: make(source, stage)")
        planner = StepPlanner(self.settings, self._engine, dict(self._known))
        origin = planner.known[made.step] = made.known
        for number, stage in enumerate(stages, 1):
            if not isinstance(stage, Recipe | FrameStage):
                expected = f"{stage.__name__}(...)" if isinstance(stage, type) else "a stage with its settings"
                raise InputError(f"found {stage!r:.80}; expected {expected}, from synthmill.stages")
            name = last_step if number == len(stages) else ""
            place = content_hash([stage.name, stage.model_dump_json(), origin.key, name])
            step = self._run.step_id(name or stage.name, place, getattr(stage, "label", ""), ids)
            origin = planner.add(step, stage if name else with_own_label(stage), origin)
        return planner

    def _make(self, maker: StepMaker, planned: Planned, known: KnownArtifact) -> Made:
        check_prices(self.settings.budget, {engine_name(engine): engine for engine in planned.roles.values()})
        manifest = maker.make(planned)
        step_run = self._run.note_step(planned.key, planned)
        maker.settle(planned, manifest)
        if isinstance(planned.stage, Recipe):
            check_something_left(self.store, planned.step, manifest)
        return self._made(known, manifest, step_run.spent)

    def _made(
        self, known: KnownArtifact, manifest: Manifest, spent: Mapping[str, dict[str, int]] | None = None
    ) -> Made:
        self._known[known.step] = known
        return Made(self.store, manifest, known, dict(spent or {}))

    def _engine(self, role: str) -> EngineSettings:
        """The engine of a role, resolved once. Raises InputError, EngineError."""
        if role not in self._engines:
            self._engines[role] = resolve(self.settings.engine(role), self.store)
        return self._engines[role]


def with_own_label(stage: Stage) -> Stage:
    """A scorer whose score is called as its kind, and not as the step, where nobody names either."""
    if "label" in type(stage).model_fields and "label" not in stage.model_fields_set:
        return stage.model_copy(update={"label": getattr(stage, "label", "")})
    return stage
