"""`synthmill run`: plan, check, run under Prefect, and say where things are."""

import sys
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from flows.looking import shortened, table
from flows.plan import Plan, plan
from flows.stopping import stop_on_signals
from schemas.errors import StoreError
from schemas.settings import SynthesizeSettings
from storage.artifacts import read_manifest
from storage.files import write_text
from storage.runs import RunRecord, runs, summary
from tasks.stages import INSTRUCTIONS, noted_rows

ROWS_SHOWN = 3


def run_flow(settings: SynthesizeSettings, *, dry_run: bool, preview: bool) -> None:
    """Run `synthesize`. With nothing left to make, neither Prefect, nor Ray, nor an engine is started."""
    planned = plan(settings)
    if dry_run:
        from flows.checks import check

        check(planned)
        return
    if done := planned.is_done():
        print("nothing to do: every artifact is made, whole and up to date; nothing was asked", file=sys.stderr)
    else:
        from flows.checks import check_engines

        check_engines(planned)
        run_under_prefect(planned.settings)
    report(planned, preview, done)


def run_under_prefect(settings: SynthesizeSettings) -> None:
    from flows.server import prefect_server

    stop_on_signals()
    print("starting Prefect" + ("" if settings.workers == 0 else " and Ray") + " ...", file=sys.stderr, flush=True)
    with prefect_server():
        from prefect import tags

        from flows.synthesize import synthesize

        with tags("command-line"):
            synthesize(settings)


def report(planned: Plan, preview: bool, done: bool) -> None:
    """What was made: the stages, a few rows (in a preview: through every stage), and where everything is."""
    from rich.console import Console

    console = Console(emoji=False)
    instructions = read_manifest(planned.store.manifest_path(INSTRUCTIONS, planned.source_key))
    if noted := noted_rows(planned.store, instructions):
        console.print(f"{noted} rows have later turns or messages: the first user turn was used", highlight=False)
    made = [run for run in runs(planned.store) if run.stages and run.stages[-1].key == planned.stages[-1].key]
    if made:
        console.print(f"\nmade by run {made[-1].id}" + (", earlier" if done else ""), highlight=False)
        console.print(stages_table(made[-1]))
        for stage in made[-1].stages:
            for reason, count in stage.dropped.items():
                console.print(f"{stage.stage}: {count} dropped, {reason}", highlight=False, markup=False)
        write_text(planned.dataset / "SUMMARY.md", summary(made[-1]))
    for row in traced_rows(planned, planned.settings.source.limit or ROWS_SHOWN if preview else ROWS_SHOWN):
        show_row(console, row, preview)
    console.print()
    for name, place in (
        ("dataset", planned.dataset),
        ("catalog", planned.store.catalog),
        ("summary", planned.dataset / "SUMMARY.md"),
    ):
        console.print(f"{name}  {place}", soft_wrap=True, highlight=False)


def stages_table(run: RunRecord) -> Any:
    shown = table("stage", "in", "out", "dropped", "calls", "reused", "tokens", "seconds")
    for stage in run.stages:
        dropped = f"{sum(stage.dropped.values()):,}"
        numbers = [f"{stage.total(what):,}" for what in ("sent", "reused", "completion_tokens")]
        shown.add_row(stage.stage, f"{stage.rows_in:,}", f"{stage.rows:,}", dropped, *numbers, f"{stage.seconds:.1f}")
    return shown


def traced_rows(planned: Plan, most: int) -> Iterator[dict[str, Any]]:
    """The first pairs, each with what the stages before it made of its instruction: {stage: row}."""
    made: dict[str, dict[str, dict[str, Any]]] = {}
    for step in planned.stages:
        try:
            first = read_manifest(planned.store.manifest_path(step.stage.name, step.key)).parts[0]
        except StoreError:
            return
        # Parts follow each other through the stages: the first pairs come from the first part of every one.
        batch = next(pq.ParquetFile(planned.store.root / first.file).iter_batches(planned.settings.rows_per_part), None)
        made[step.stage.name] = {row["id"]: row for row in batch.to_pylist()} if batch else {}
    for pair in list(made["pairs"].values())[:most]:
        traced, parent = {"pair": pair}, pair["parent_id"]
        for stage in ("rewards", "system_messages", "preference_sets"):
            traced[stage] = made[stage][parent]
            parent = traced[stage]["parent_id"]
        yield traced


def show_row(console: Any, traced: dict[str, Any], whole: bool) -> None:
    """One instruction, its chosen answer beside the rejected one; the whole way there in a preview."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    pair = traced["pair"]
    console.print()
    console.print(Text(f"user: {shortened(pair['prompt'], 300)}", style="bold"))
    if whole:
        for value in traced["preference_sets"]["values"]:
            said = f"  {value['dimension']} / {value['subdimension']} / {value['preference']}: {value['description']}"
            console.print(Text(shortened(said, 300), style="dim"))
    console.print(Text(f"system: {shortened(pair['system'] or '', 300)}"))
    if whole:
        pool = traced["rewards"]
        for answer, reward in zip(pool["answers"], pool["rewards"], strict=True):
            said = (
                f"  answer {answer['answer_index']}, reward {reward:.3f}, {answer['finish_reason']}: {answer['text']}"
            )
            console.print(Text(shortened(said, 160), style="dim"))
    half = max(30, console.width // 2 - 2)
    both = [
        Panel(Text(shortened(pair[name], 400)), title=f"{name} ({pair[name + '_reward']:.3f})", width=half)
        for name in ("chosen", "rejected")
    ]
    console.print(Columns(both))
