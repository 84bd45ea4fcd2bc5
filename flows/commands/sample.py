"""`synthmill sample`: N answers per prompt for a plain file."""

import sys
import time
from pathlib import Path
from typing import Any

from flows.commands.dry_run import check_engine
from flows.making.session import session
from flows.terminal.progress import Reporter
from schemas.artifacts import Manifest
from schemas.calls import Sampling
from schemas.errors import EngineError
from schemas.settings import EngineSettings, SourceSettings, read_settings
from storage.artifacts import Store, read_dropped, read_part
from storage.plain_files.outputs import check_out, write_rows
from storage.published.rows import endings_in
from storage.runs import StageRun, new_run
from tasks.engines.engine import resolve
from tasks.generators.answers import Answers
from tasks.running.job import Planned
from tasks.running.stages import ingest, noted_rows, run_stage

ANSWERS_PER_PART, MOST_ROWS, FEWEST_ROWS = 4096, 256, 8


def sample_file(
    source: str,
    engine: str,
    count: int,
    concurrency: int,
    store: str,
    out: Path,
    temperature: float,
    top_p: float,
    max_tokens: int,
    seed: int,
    limit: int | None,
    prompt_column: str,
    id_column: str,
    system_column: str,
    workers: int,
    ray_address: str | None,
    retry_lost: bool,
) -> None:
    """Answer every prompt of a file `count` times and write one row per answer to `out`."""
    check_out(out, source)
    place = Store(Path(store).expanduser().resolve(), retry_lost)
    settings = read_settings(EngineSettings, None, {"spec": engine, "concurrency": concurrency})
    reading = SourceSettings(
        path=source, prompt_column=prompt_column, id_column=id_column, system_column=system_column, limit=limit
    )
    drawn = read_settings(
        Sampling, None, {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    )
    stage = Answers(sampling=drawn, count=count)
    place.prepare()
    settings = resolve(settings, place)
    roles = {"student": settings}
    Planned(stage, roles, "")  # names the engine: fails before the file is read
    record = new_run("sample", {"source": source, "engine": settings.spec, "answers": stage.model_dump(mode="json")})
    started = time.monotonic()
    rows_per_part = max(FEWEST_ROWS, min(MOST_ROWS, ANSWERS_PER_PART // count))
    with session(place, record, workers, ray_address) as (pool, stages):
        instructions = ingest(place, reading, rows_per_part, record.id)
        planned = Planned(stage, roles, instructions.key)
        if not planned.sealed(place, instructions):
            check_engine(settings)
        with Reporter("answers", instructions.rows) as report:
            manifest = run_stage(place, planned, instructions, pool, record.id, report)
        stages.append(StageRun.of(instructions, {}, 0.0))
        stages.append(StageRun.of(manifest, report.latest.spent, time.monotonic() - started))
    answers = write_answers(place, manifest, out)
    tell(place, instructions, manifest, stages[-1], answers, out)


ANSWER_COLUMNS = ("id", "answer_index", "prompt", "system", "answer", "finish_reason", "completion_tokens")
WHOLE_NUMBERS = ("answer_index", "completion_tokens")


def answer_rows(table: Any) -> list[dict[str, Any]]:
    """One row per answer of a part of pools; `id` is the input row's."""
    return [
        {
            "id": pool["parent_id"],
            "answer_index": answer["answer_index"],
            "prompt": pool["prompt"],
            "system": pool["system"],
            "answer": answer["text"],
            "finish_reason": answer["finish_reason"],
            "completion_tokens": answer["completion_tokens"],
        }
        for pool in table.to_pylist()
        for answer in pool["answers"]
    ]


def write_answers(store: Store, pools: Manifest, out: Path) -> int:
    """Write every answer, in the order of the input, part by part; returns how many."""
    return write_rows(out, answer_columns(), (answer_rows(read_part(store, seal)) for seal in pools.parts))


def answer_columns() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.int64() if name in WHOLE_NUMBERS else pa.string()) for name in ANSWER_COLUMNS])


def tell(store: Store, instructions: Manifest, pools: Manifest, stage: StageRun, answers: int, out: Path) -> None:
    """Some lines on what was done; raises EngineError when every row failed."""
    if noted := noted_rows(store, instructions):
        print(f"{noted} rows have other turns or messages: the first user turn was used", file=sys.stderr)
    for manifest, what in ((instructions, "read"), (pools, "answered")):
        if manifest.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
            first = next(row for seal in manifest.parts for row in read_dropped(store, seal))
            words = f"; the first: {first.detail}" if first.detail else ""
            print(f"{sum(manifest.dropped.values())} rows could not be {what}: {reasons}{words}", file=sys.stderr)
    sent, reused, tokens = (stage.total(what) for what in ("sent", "reused", "completion_tokens"))
    spent = f"{sent:,} calls sent, {tokens:,} tokens, {reused:,} answers reused, {stage.seconds:.1f} s"
    how = spent if sent or reused else "0 calls sent: all made before"
    print(f"{answers:,} answers to {pools.rows:,} prompts -> {out} ({how})", file=sys.stderr)
    ends = endings_in(store, pools)
    for count, what in (
        (ends["length"], "cut at max_tokens"),
        (ends["content_filter"], "broken off by a content filter"),
    ):
        if count:
            print(f"{count:,} of {answers:,} answers were {what}", file=sys.stderr)
    if pools.rows == 0:
        raise EngineError("every row failed; the reasons are above")
