"""`synthmill score`: one more score for every answer of a plain file."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from flows.commands.dry_run import check_engine
from flows.making.session import session
from flows.terminal.progress import Reporter
from schemas.artifacts import Manifest
from schemas.errors import InputError, SynthmillError
from schemas.settings import EngineSettings, read_settings
from storage.artifacts import Store, read_part
from storage.plain_files.lines import lines_of
from storage.plain_files.outputs import check_out, write_grown
from storage.plain_files.pools import ColumnNames, PoolFile
from storage.runs import StageRun, new_run
from tasks.engines.engine import resolve
from tasks.generators.pool_source import REWARD, ingest_pools
from tasks.running.job import Planned
from tasks.running.stages import run_stage
from tasks.scorers.judgements import note_unread
from tasks.scorers.scoring import ScorerSettings, ScoringContext

POOLS_PER_PART = 64
RESERVED = ("id", "prompt_id", "prompt", "answer", "answers", "system", "reference")
ROWS_AT_ONCE = 4096


def score_file(
    source: str,
    out: Path,
    settings: ScorerSettings,
    engine: str | None,
    concurrency: int,
    embedder: str,
    names: ColumnNames,
    store: str,
    seed: int,
    workers: int,
    ray_address: str | None,
    retry_lost: bool,
) -> None:
    """Score every answer of `source`; `out` has its rows, in its order, with one column more."""
    check_out(out, source)
    place = Store(Path(store).expanduser().resolve(), retry_lost)
    columns = [name for name in settings.reads if name != REWARD]
    file = PoolFile(source, names, rewards=False, reference=True, extra=columns)
    if settings.label in RESERVED:
        raise InputError(f"no score may be called {settings.label}; give it another --name")
    if settings.label in file.columns:
        raise InputError(f"{source} has a column {settings.label!r} already; give the score another --name")
    stage = settings.stage(ScoringContext(embedder, seed))
    roles = {}
    if settings.roles:
        if not engine:
            raise InputError(f"the scorer {settings.kind} asks a model; name it with --engine")
        asked = read_settings(EngineSettings, None, {"spec": engine, "concurrency": concurrency})
        place.prepare()
        roles = dict.fromkeys(settings.roles, resolve(asked, place))
    elif engine:
        raise InputError(f"the scorer {settings.kind} asks no model, so --engine has no effect; leave it out")
    Planned(stage, roles, "")  # names the engine: fails before the file is read
    place.prepare()
    record = new_run("score", {"source": source, "scorer": settings.model_dump(mode="json"), "engine": engine})
    started = time.monotonic()
    with session(place, record, workers, ray_address) as (pool, stages):
        pools = ingest_pools(place, file, POOLS_PER_PART, record.id)
        planned = Planned(stage, roles, pools.key)
        if roles and not planned.sealed(place, pools):
            check_engine(roles[settings.roles[0]])
        with Reporter(settings.label, pools.rows) as report:
            manifest = run_stage(place, planned, pools, pool, record.id, report)
        stages.append(StageRun.of(manifest, report.latest.spent, time.monotonic() - started))
        note = note_unread(place, manifest)
    scores = dict(scores_in(place, manifest, settings.label))
    if scores and all(np.isnan(values).all() for values in scores.values()):
        raise SynthmillError(f"{settings.label} gave no answer of {source} a score, so {out} was not written")
    written, scored = write_scored(file, out, settings.label, scores)
    for done, what in ((pools, "read"), (manifest, "scored")):
        if done.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in done.dropped.items())
            print(f"{sum(done.dropped.values()):,} pools or rows could not be {what}: {reasons}", file=sys.stderr)
    if note:
        print(note, file=sys.stderr)
    print(f"{scored:,} answers scored, {written:,} rows -> {out}", file=sys.stderr)


def scores_in(store: Store, manifest: Manifest, label: str) -> Iterator[tuple[str, Any]]:
    """(prompt id, a number per answer) of every pool that was scored; NaN where there is none."""
    for seal in manifest.parts:
        if seal.rows:
            for row in pl.DataFrame(read_part(store, seal, ("id", "scores"))).iter_rows(named=True):
                values = next(one["values"] for one in reversed(row["scores"]) if one["scorer"] == label)
                yield row["id"], np.array(values, float)


def write_scored(file: PoolFile, out: Path, label: str, scores: dict[str, Any]) -> tuple[int, int]:
    """The file's rows with the score: (rows, answers that have one). Where a file has no rewards, the score is the
    reward, too, so that `synthmill pairs` reads what this wrote. Rows that cannot be read as objects are left out.
    """
    reward = "rewards" if file.wide else REWARD
    added = dict.fromkeys([label] if file.reward else [label, reward])
    next_of: Counter[str] = Counter()
    scored = 0

    def value_of(row: Mapping[str, Any], pool: str | None) -> Any:
        nonlocal scored
        mine = scores.get(pool or "")
        if file.wide:
            answers = row.get(file.answer)
            count = len(answers) if isinstance(answers, list) else 0
            values: list[float | None] = [None] * count
            if pool is not None and mine is not None and len(mine) == count:
                values = [plain(one) for one in mine]
                del scores[pool]  # another row of the same id is none of the pools
            scored += sum(one is not None for one in values)
            return values
        if pool is None or mine is None:
            return None
        next_of[pool] += 1
        value = plain(mine[next_of[pool] - 1]) if next_of[pool] <= len(mine) else None
        scored += value is not None
        return value

    def parts() -> Iterator[list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        for line, pool in zip(lines_of(file.path), file.ids(), strict=True):
            if line.fields is not None:
                rows.append({**line.fields, **dict.fromkeys(added, value_of(line.fields, pool))})
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
        yield rows

    number = pa.list_(pa.float64()) if file.wide else pa.float64()
    return write_grown(out, file.path, file.schema, {name: number for name in added}, parts()), scored


def plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
