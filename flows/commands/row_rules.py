"""Stages that choose among a file's rows, each on the same rows: for `synthmill compare-cuts`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from synthmill.flows.making.plan import table_source
from synthmill.flows.making.stage_list import stage_named
from synthmill.flows.making.step_maker import StepMaker, step_maker
from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.settings import TableSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.plain_files.text_rows import text_column, texts_in
from synthmill.storage.published.by_columns import VERDICTS
from synthmill.storage.runs import new_run
from synthmill.tasks.frames import FrameStage, RunContext
from synthmill.tasks.running.job import Planned
from synthmill.tasks.tables.rule_figures import Choice

ROWS_PER_PART = 2048
SCORE = "score"


class RowRules:
    """A file's rows, of which stages choose. text: the column that is compared; score: the column of numbers, empty
    for `score` where the rows have it. Raises InputError.
    """

    def __init__(self, path: str, limit: int | None, text: str, score: str, store: str, embedder: str) -> None:
        self.path, self.text, self.context = path, text_column(path, text), RunContext(embedder)
        self.store = Store(Path(store).expanduser().resolve())
        self.store.prepare()
        self.source, columns = table_source(self.store, TableSettings(path=path, limit=limit), ROWS_PER_PART)
        self.score = score or (SCORE if SCORE in columns.names else "")
        check_columns(path, filter(None, [self.score]), columns.names)

    def choose(self, rules: Sequence[tuple[str, str, dict[str, Any]]]) -> tuple[pl.DataFrame, list[Choice]]:
        """(id, text and score of every row, what each rule keeps). rules: label, stage, its settings."""
        stages = [self.stage(name, own) for _, name, own in rules]
        record = new_run(
            "compare-cuts", {"source": self.path, "rules": [stage.model_dump(mode="json") for stage in stages]}
        )
        with step_maker(self.store, record, 0, None) as maker:
            rows = maker.read(self.source)
            table = pl.DataFrame(read_artifact(self.store, rows, None))
            frame = pl.DataFrame(
                {
                    "id": table["id"],
                    "text": [text_of(value) for value in table[self.text].to_list()],
                    "score": table[self.score].cast(pl.Float64) if self.score else [np.nan] * table.height,
                }
            )
            place = {row_id: number for number, row_id in enumerate(frame["id"])}
            choices = []
            for (label, *_), stage in zip(rules, stages, strict=True):
                kept = self.kept_ids(maker, stage, rows.key)
                if unknown := next((row_id for row_id in kept if row_id not in place), ""):
                    raise InputError(f"{label} makes rows of its own ({unknown}); expected a stage that chooses rows")
                numbers = np.array(sorted({place[row_id] for row_id in kept}), np.int64)
                chosen = frame[numbers.tolist()]
                columns = {"score": chosen["score"], "length": chosen["text"].str.len_chars()}
                arrays = {name: column.cast(pl.Float64).to_numpy() for name, column in columns.items()}
                choices.append(Choice(label, numbers, {(row_id,) for row_id in chosen["id"]}, arrays))
        return frame, choices

    def stage(self, name: str, settings: dict[str, Any]) -> FrameStage:
        """A stage with its settings, and with the score where it takes one that is not set."""
        kind = stage_named(name)
        if not issubclass(kind, FrameStage):
            raise InputError(
                f"{name} asks a model; run it in a pipeline, and compare stages on the scores that it gave"
            )
        if SCORE in kind.model_fields and SCORE not in settings and self.score:
            settings = {**settings, SCORE: self.score}
        return read_settings(kind, None, settings)

    def kept_ids(self, maker: StepMaker, stage: FrameStage, key: str) -> list[str]:
        """The ids of the rows that a stage keeps; a verdict that it adds decides."""
        planned: dict[str, Any] = {}
        for setting, before in stage.prerequisites().items():
            step = Planned(before, {}, key, context=self.context)
            maker.make(step)
            planned[setting] = step.key
        stage = stage.model_copy(update=planned)
        artifact = maker.make(Planned(stage, {}, key, context=self.context))
        verdicts = [name for name in VERDICTS if name in artifact.columns]
        frame = pl.DataFrame(read_artifact(self.store, artifact, ("id", *verdicts)))
        return frame.filter(pl.all_horizontal(pl.lit(True), *verdicts))["id"].to_list()


def text_of(value: Any) -> str:
    """A row's text; empty where it has none."""
    try:
        return texts_in(value)[0]
    except Drop:
        return ""
