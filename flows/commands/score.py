"""`synthmill score`: one more score for every answer of a plain file."""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from synthmill.flows.commands.engine_choice import chosen_engine
from synthmill.flows.making.learning import with_lessons
from synthmill.flows.making.limiting import check_something_left
from synthmill.flows.making.plan import pool_source
from synthmill.flows.making.step_maker import step_maker
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError, SynthmillError
from synthmill.storage.artifacts import Store, read_dropped, read_part
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.outputs import check_out, write_grown
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile
from synthmill.storage.runs import new_run
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.pool_source import REWARD
from synthmill.tasks.running.job import Planned
from synthmill.tasks.scorers.judgements import note_unread
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext

POOLS_PER_PART = 64
RESERVED = ("id", "prompt_id", "prompt", "answer", "answers", "system", "reference")
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class ScoreSettings:
    """The options of `synthmill score`. engine: KIND:MODEL, for scorers that ask a model; seed: of what it draws."""

    source: str
    out: Path
    scorer: ScorerSettings
    columns: ColumnNames
    engine: str | None
    concurrency: int
    embedder: str
    seed: int
    store: str
    workers: int
    ray_address: str | None
    retry_lost: bool
    engine_option: Mapping[str, Any] = field(default_factory=dict)
    auto_drop: bool = False
    thinking: str | None = None


class ScoredFile(NamedTuple):
    """What was made of a file: its pools, those with the score; how many rows were written, how many answers have a
    score; note: on judgements that could not be read.
    """

    store: Store
    pools: Manifest
    scored_pools: Manifest
    rows: int
    answers: int
    note: str


def score_file(settings: ScoreSettings) -> None:
    """Score every answer of `source`; `out` has its rows, in its order, with a column more for each score."""
    scored = with_lessons(lambda: score_answers(settings))
    for manifest, what in ((scored.pools, "read"), (scored.scored_pools, "scored")):
        if manifest.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
            first = next((row.detail for seal in manifest.parts for row in read_dropped(scored.store, seal)), "")
            count = sum(manifest.dropped.values())
            print(f"{count:,} pools or rows could not be {what}: {reasons}; the first: {first}", file=sys.stderr)
    if scored.note:
        print(scored.note, file=sys.stderr)
    print(f"{scored.answers:,} answers scored, {scored.rows:,} rows -> {settings.out}", file=sys.stderr)


def score_answers(settings: ScoreSettings) -> ScoredFile:
    """Score every answer and write `out`. Raises InputError, EngineError (EngineLearned where the engine must be named
    anew), or SynthmillError where no answer has a score.
    """
    source, out, label = settings.source, settings.out, settings.scorer.label
    check_out(out, source)
    store = Store(Path(settings.store).expanduser().resolve(), settings.retry_lost)
    file = open_file(settings)
    step = scoring_step(settings, store)
    scorer = settings.scorer.model_dump(mode="json")
    record = new_run("score", {"source": source, "scorer": scorer, "engine": settings.engine})
    with step_maker(store, record, settings.workers, settings.ray_address) as maker:
        pools = maker.read(pool_source(store, lambda: file, POOLS_PER_PART))
        scored_pools = maker.make(Planned(step.stage, step.roles, pools.key), label)
    scores = dict(scores_in(store, scored_pools, settings.scorer.labels))
    check_something_left(store, scored_pools.stage, scored_pools)
    note = note_unread(store, scored_pools)
    if scores and all(np.isnan(values[label]).all() for values in scores.values()):
        raise SynthmillError(f"{label} gave no answer of {source} a score, so {out} was not written")
    rows, answers = write_scores(file, out, settings.scorer, scores)
    return ScoredFile(store, pools, scored_pools, rows, answers, note)


def open_file(settings: ScoreSettings) -> PoolFile:
    """The file of answers. Raises InputError where it cannot have a score of this name."""
    reads = [name for name in settings.scorer.reads if name != REWARD]
    by_row = settings.scorer.reads_by_row
    file = PoolFile(settings.source, settings.columns, rewards=False, reference=True, extra=reads, by_row=by_row)
    for column in settings.scorer.needs_by_row:
        if column not in file.columns:
            found = ", ".join(sorted(file.columns))
            raise InputError(f"{settings.scorer.kind} reads the column {column} of {settings.source}; found {found}")
    for label in settings.scorer.labels:
        if label in RESERVED:
            raise InputError(f"no score may be called {label}; give it another --name")
        if label in file.columns:
            raise InputError(f"{settings.source} has a column {label!r} already; give the score another --name")
    return file


def scoring_step(settings: ScoreSettings, store: Store) -> Planned:
    """The scorer's stage and engines, without a source yet. Raises InputError before anything is read."""
    scorer = settings.scorer
    stage = scorer.stage(ScoringContext(settings.embedder, settings.seed))
    roles = {}
    if scorer.roles:
        if not settings.engine:
            raise InputError(f"the scorer {scorer.kind} asks a model; name it with --engine")
        if scorer.compares:
            raise InputError(
                f"the scorer {scorer.kind} compares the models of {' and '.join(scorer.compares)}, and score has one "
                f"--engine; name an engine for each in a pipeline, as a step of the stage {stage.name}"
            )
        chosen = settings.engine_option
        engine = chosen_engine(settings.engine, settings.concurrency, chosen, settings.auto_drop, settings.thinking)
        store.prepare()
        roles = dict.fromkeys(scorer.roles, resolve(engine, store))
    elif settings.engine or settings.engine_option or settings.auto_drop or settings.thinking:
        raise InputError(
            f"the scorer {scorer.kind} asks no model, so what is said of an engine has no effect; leave it out"
        )
    step = Planned(stage, roles, "")  # names the engine
    store.prepare()
    return step


def scores_in(store: Store, manifest: Manifest, labels: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(prompt id, by label a number per answer) of every pool that was scored; NaN where there is none. Where a stage
    says why, the reasons are beside them, under its column's name.
    """
    reasons = [name for name in map(missing_column, labels) if name in manifest.columns]
    for seal in manifest.parts:
        if seal.rows:
            for row in pl.DataFrame(read_part(store, seal, ("id", "scores", *reasons))).iter_rows(named=True):
                values = {score["scorer"]: score["values"] for score in row["scores"]}
                missing = [None] * len(row["scores"][-1]["values"])
                numbers = {label: np.array(values.get(label, missing), float) for label in labels}
                yield row["id"], numbers | {name: row[name] for name in reasons if any(row[name])}


def missing_column(label: str) -> str:
    """The column that says why an answer has no score."""
    return f"{label}_missing"


def write_scores(
    file: PoolFile, out: Path, scorer: ScorerSettings, scores: dict[str, dict[str, Any]]
) -> tuple[int, int]:
    """Write the file's rows with the scores: (rows, answers that have one). Where the file has no rewards, the score is
    the reward, too, so that `synthmill pairs` can read `out`. Where answers have no score and it is known why, a column
    LABEL_missing says it. Leaves out lines that are no objects.
    """
    reward = "rewards" if file.wide else REWARD
    reasons = sorted({name for values in scores.values() for name in values} - {*scorer.labels, *file.columns})
    labels = (*scorer.labels, *reasons)
    label_of = {label: label for label in labels} | ({} if file.reward else {reward: scorer.label})
    next_of: Counter[str] = Counter()
    score_count = 0

    def values_of(row: Mapping[str, Any], pool: str | None) -> dict[str, Any]:
        nonlocal score_count
        numbers = scores.get(pool or "", {})
        values: dict[str, Any] = {}
        if file.wide:
            answers = row.get(file.answer)
            count = len(answers) if isinstance(answers, list) else 0
            for label in labels:
                of_label = numbers.get(label, ())
                values[label] = list(map(cell, of_label)) if len(of_label) == count else [None] * count
            scores.pop(pool or "", None)  # a later row of this id belongs to no pool
            score_count += sum(value is not None for value in values[scorer.label])
        elif pool is not None and numbers:
            place = next_of[pool]
            next_of[pool] += 1
            values = {
                label: cell(of_label[place]) if place < len(of_label) else None for label, of_label in numbers.items()
            }
            score_count += values[scorer.label] is not None
        return {column: values.get(label) for column, label in label_of.items()}

    def parts() -> Iterator[list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        for line, pool in zip(lines_of(file.path), file.ids(), strict=True):
            if line.fields is not None:
                rows.append({**line.fields, **values_of(line.fields, pool)})
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
        yield rows

    kinds = dict.fromkeys(label_of, pa.float64()) | dict.fromkeys(reasons, pa.string())
    added = {column: pa.list_(kind) if file.wide else kind for column, kind in kinds.items()}
    return write_grown(out, file.path, file.schema, added, parts()), score_count


def cell(value: Any) -> Any:
    """A reason as it is, a number as Python's, None for NaN."""
    if value is None or isinstance(value, str):
        return value
    return None if math.isnan(value) else float(value)
