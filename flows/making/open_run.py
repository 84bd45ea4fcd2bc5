"""A session's run while it is open: its workers, where there are any, its steps, and how it goes."""

import re
import sys
from contextlib import ExitStack
from typing import Any

from synthmill.flows.making.limiting import run_limits
from synthmill.flows.making.step_maker import StepMaker, sweep_killed_runs, workers_of
from synthmill.schemas.errors import InputError, Stopped, StoreError, SynthmillError
from synthmill.schemas.settings import RunSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import RunRecord, StageRun, Status, new_run, now, write_run
from synthmill.tasks.running.job import Planned, unused_id

NAME = re.compile(r"[\w-][\w.-]*")


class OpenRun:
    """A run from its first work to its end. name: the run's flow and its job, whose budget all runs of the name share.

    Nothing of a session refers back from here, so that a session which nobody holds any more is closed.
    """

    def __init__(self, store: Store, settings: RunSettings, name: str) -> None:
        if not NAME.fullmatch(name):
            raise InputError(f"name is {name!r}; expected letters, digits, dots and dashes")
        self.store, self.settings, self.name = store, settings, name
        self.record: RunRecord | None = None
        self.steps: list[StageRun] = []
        self.ids: dict[str, str] = {}
        self.sources: dict[str, Any] = {}
        self.stages: dict[str, Any] = {}
        self.dataset = ""
        self._status: Status = "finished"
        self._error = ""
        self._maker: StepMaker | None = None
        self._workers = ExitStack()

    def maker(self) -> StepMaker:
        """What makes steps; the first call begins the run."""
        if self.record is None:
            sweep_killed_runs(self.store)
            self.record = write_run(self.store, new_run(self.name, self.facts(), self.name))
        if self._maker is None:
            settings = self.settings
            limits = run_limits(self.store, self.name, settings.budget, settings.drop_limit)
            pool = self._workers.enter_context(
                workers_of(self.store, self.record.id, settings.workers, settings.ray_address, limits)
            )
            self._maker = StepMaker(self.store, pool, self.record.id, self.steps, limits, settings.budget)
        return self._maker

    def close_workers(self) -> None:
        """Close the workers; the next work opens others, and knows what is made."""
        self._maker = None
        workers, self._workers = self._workers, ExitStack()
        workers.close()

    def step_id(self, name: str, key: str, label: str = "", ids: dict[str, str] | None = None) -> str:
        """The id of a step: its name, with its label or a number where another step has it. ids: by key, takes it."""
        ids = self.ids if ids is None else ids
        if key not in ids:
            taken = set(ids.values())
            ids[key] = unused_id(f"{name}-{label}" if label and name in taken else name, taken)
        return ids[key]

    def note_step(self, key: str, planned: Planned | None = None) -> StageRun:
        """Keep what the last step came to, once for each artifact; returns it."""
        step_run = self.steps[-1]
        if any(step.key == key for step in self.steps[:-1]):
            self.steps.pop()
        if planned:
            settings = planned.identity.get("settings", {})
            source = next((step.step_id for step in self.steps if step.key == planned.source_key), planned.source_key)
            self.stages[planned.step] = {"stage": planned.stage.name, "from": source, **settings}
        return step_run

    def facts(self) -> dict[str, Any]:
        """The settings of the session and of every source and stage so far, as the run's record holds them."""
        sources = {f"source_{number}": facts for number, facts in enumerate(self.sources.values(), 1)}
        settings = self.settings.model_dump(mode="json")
        return {**settings, "session": True, **sources, "steps": self.stages}

    def present(self, **update: Any) -> RunRecord:
        """The record as it stands; update: what changes."""
        assert self.record is not None
        update |= {"stages": tuple(self.steps), "dataset": self.dataset, "settings": self.facts()}
        self.record = self.record.model_copy(update=update)
        return self.record

    def fail(self, error: BaseException) -> None:
        """The run would end with this error, if it ended now."""
        if isinstance(error, Stopped | KeyboardInterrupt):
            self._status = "stopped"
        else:
            self._status = "failed"
        self._error = error.message if isinstance(error, SynthmillError) else f"{type(error).__name__}: {error}"

    def recover(self) -> None:
        """Work after an error went well."""
        self._status, self._error = "finished", ""

    def end(self) -> None:
        """Close the workers and write the record."""
        try:
            self.close_workers()
        finally:
            if self.record is not None:
                try:
                    write_run(self.store, self.present(status=self._status, error=self._error, ended_at=now()))
                except StoreError as failure:
                    print(f"the run's record is not written: {failure.message}", file=sys.stderr, flush=True)
