"""Stages made from each other, through which columns go along as in a pipeline with these steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from synthmill.flows.making.cleaning import Cleaning
from synthmill.flows.making.steps import with_carried
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.frames import FileStage
from synthmill.tasks.running.carrying import carried_after, carried_by
from synthmill.tasks.running.job import Planned, Stage


@dataclass
class RowChain:
    """The artifact that stages are chained to: its key, its columns, and those that go along with its rows."""

    key: str
    columns: pa.Schema
    carried: frozenset[str] = frozenset()

    def then(self, roles: Mapping[str, EngineSettings], *stages: Stage, last: str = "") -> list[Planned]:
        """Stages made from each other, the first one from these rows, which are then the last one's. last: its step."""
        planned: list[Planned] = []
        for stage in stages:
            step = last if stage is stages[-1] else ""
            carries = self.after(stage)
            planned.append(Planned(stage, roles, self.key, step, carries=sorted(carries)))
            self.key = planned[-1].key
        return planned

    def after(self, stage: Stage) -> set[str]:
        """Take a stage's columns; returns those that it carries."""
        output = stage.output_columns(self.columns)
        carries = carried_by(self.carried, stage, self.columns, output)
        self.carried = carried_after(self.carried, stage, self.columns, output)
        self.columns = with_carried(output, self.columns, carries)
        return carries

    def cleaned(self, cleaning: Cleaning) -> list[Planned]:
        """The stages of a cleaning, which keep rows or drop them, and make no others."""
        for planned in cleaning.stages:
            if not isinstance(planned.stage, FileStage):
                self.after(planned.stage)
        self.key = cleaning.key
        return cleaning.stages
