"""`synthmill run`: plan, check, run under Prefect, and say where things are."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flows.making.plan import Plan
from flows.methods import method
from flows.terminal.stopping import working
from flows.terminal.tables import table
from schemas.artifacts import Manifest
from schemas.errors import EngineError
from schemas.settings import RunSettings
from storage.files import write_text
from storage.plain_files.rows import INSTRUCTIONS
from storage.published.folder import Dataset, read_dataset
from storage.published.rows import compared
from storage.runs import RunRecord, runs, summary
from tasks.running.stages import noted_rows

ROWS_SHOWN = 3


def run_flow(flow: str, settings: RunSettings, *, dry_run: bool, preview: int | None) -> None:
    """Run a flow. With nothing left to make, neither Prefect, nor Ray, nor an engine is started."""
    planned = method(flow).plan(settings)
    if dry_run:
        from flows.commands.dry_run import check

        check(planned)
        return
    if done := planned.is_done():
        print("nothing to do: every artifact is made, whole and up to date; nothing was asked", file=sys.stderr)
    else:
        from flows.commands.dry_run import check_engines

        check_engines(planned)
        run_under_prefect(flow, planned)
        planned = replace(planned, store=replace(planned.store, retry_lost=False))  # what was lost again is settled now
    report(planned, preview, done)


def run_under_prefect(flow: str, planned: Plan) -> None:
    from flows.serving.server import prefect_server, without_credentials

    settings = planned.settings
    print("starting Prefect" + ("" if settings.workers == 0 else " and Ray") + " ...", file=sys.stderr, flush=True)
    with working(), prefect_server():
        from httpx import TransportError
        from prefect import tags
        from prefect.settings import PREFECT_API_URL

        from flows.making.make import HANDED_ON
        from flows.making.prefect_flow import prefect_flow

        with tags("command-line"):
            handed = HANDED_ON.set(planned)
            try:
                prefect_flow(method(flow))(settings)
            except (TransportError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
                    raise
                said = "" if isinstance(error, RuntimeError) else f" ({error})"
                where = without_credentials(str(PREFECT_API_URL.value()))
                raise EngineError(
                    f"Prefect's server at {where} does not answer as one does{said}; what is made is kept, run the "
                    "same command again to continue"
                ) from error
            finally:
                HANDED_ON.reset(handed)


def report(planned: Plan, preview: int | None, done: bool) -> None:
    """What was made: the steps, a few rows (in a preview: through every step), and where everything is."""
    from rich.console import Console

    from flows.pages.report import PAGE

    console = Console(emoji=False)
    manifests = planned.made()
    dataset = read_dataset(planned.dataset) if manifests else None
    for note in notes(planned, manifests, dataset) if manifests and dataset else ():
        console.print(note, highlight=False, markup=False)
    run = next((run for run in reversed(list(runs(planned.store))) if run.dataset == str(planned.dataset)), None)
    if run:
        console.print(f"\nmade by run {run.id}" + (", earlier" if done else ""), highlight=False)
        console.print(stages_table(run))
        for stage in run.stages:
            for reason, count in stage.dropped.items():
                console.print(f"{stage.step_id}: {count} dropped, {reason}", highlight=False, markup=False)
        write_text(planned.dataset / "SUMMARY.md", summary(run))
    if dataset:
        show_dataset(console, planned, dataset, preview)
    console.print()
    for name, place in (
        ("dataset", planned.dataset),
        ("catalog", planned.store.catalog),
        ("summary", planned.dataset / "SUMMARY.md"),
        ("report ", planned.dataset / PAGE),
    ):
        console.print(f"{name}  {place}", soft_wrap=True, highlight=False, markup=False)


def notes(planned: Plan, manifests: Mapping[str, Manifest], dataset: Dataset) -> Iterator[str]:
    """What a reader should know before the table."""
    instructions = manifests.get(INSTRUCTIONS.stage)
    if instructions and (count := noted_rows(planned.store, instructions)):
        yield f"{count} rows have other turns or messages: the first user turn was used"
    yield from compared(planned.store, manifests)
    yield from dataset.notes


def show_dataset(console: Any, planned: Plan, dataset: Dataset, preview: int | None) -> None:
    """The first rows by their kind, each with its way through every step in a preview; then the figures."""
    from flows.commands.show import show_lineage
    from flows.pages.on_terminal import first_rows, show_figure, show_row, show_tables

    kind, rows = first_rows(dataset, preview or ROWS_SHOWN)
    for row in rows:
        if preview:
            show_lineage(planned.store, row["id"])
        show_row(console, kind, row)
    show_tables(console, dataset)
    for figure in dataset.figures:
        show_figure(console, figure)


def stages_table(run: RunRecord) -> Any:
    shown = table("step", "in", "out", "dropped", "calls", "reused", "tokens", "seconds")
    for stage in run.stages:
        dropped = f"{sum(stage.dropped.values()):,}"
        numbers = [f"{stage.total(what):,}" for what in ("sent", "reused", "completion_tokens")]
        shown.add_row(stage.step_id, f"{stage.rows_in:,}", f"{stage.rows:,}", dropped, *numbers, f"{stage.seconds:.1f}")
    return shown
