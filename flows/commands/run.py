"""`synthmill run`: plan, check, run under Prefect, and say where things are."""

import importlib
import sys
from dataclasses import replace
from typing import Any

from flows.making.plan import Plan
from flows.plans import FLOWS
from flows.terminal.stopping import working
from flows.terminal.tables import table
from schemas.errors import EngineError
from schemas.settings import RunSettings
from storage.files import write_text
from storage.runs import RunRecord, runs, summary

ROWS_SHOWN = 3


def run_flow(flow: str, settings: RunSettings, *, dry_run: bool, preview: int | None) -> None:
    """Run a flow. With nothing left to make, neither Prefect, nor Ray, nor an engine is started."""
    planned = FLOWS[flow][1](settings)
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

        with tags("command-line"):
            name = flow.replace("-", "_")
            handed = HANDED_ON.set(planned)
            try:
                getattr(importlib.import_module(f"flows.{name}"), name)(settings)
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
    """What was made: the stages, a few rows (in a preview: through every stage), and where everything is."""
    from rich.console import Console

    from flows.pages.report import PAGE
    from flows.showing import SHOWN, notes

    console = Console(emoji=False)
    made = planned.made()
    for note in notes(planned, made) if made else ():
        console.print(note, highlight=False, markup=False)
    run = next((one for one in reversed(list(runs(planned.store))) if one.dataset == str(planned.dataset)), None)
    if run:
        console.print(f"\nmade by run {run.id}" + (", earlier" if done else ""), highlight=False)
        console.print(stages_table(run))
        for stage in run.stages:
            for reason, count in stage.dropped.items():
                console.print(f"{stage.step_id}: {count} dropped, {reason}", highlight=False, markup=False)
        write_text(planned.dataset / "SUMMARY.md", summary(run))
    if made:
        SHOWN[planned.flow](console, planned, made, preview or ROWS_SHOWN, bool(preview))
    console.print()
    for name, place in (
        ("dataset", planned.dataset),
        ("catalog", planned.store.catalog),
        ("summary", planned.dataset / "SUMMARY.md"),
        ("report ", planned.dataset / PAGE),
    ):
        console.print(f"{name}  {place}", soft_wrap=True, highlight=False, markup=False)


def stages_table(run: RunRecord) -> Any:
    shown = table("step", "in", "out", "dropped", "calls", "reused", "tokens", "seconds")
    for stage in run.stages:
        dropped = f"{sum(stage.dropped.values()):,}"
        numbers = [f"{stage.total(what):,}" for what in ("sent", "reused", "completion_tokens")]
        shown.add_row(stage.step_id, f"{stage.rows_in:,}", f"{stage.rows:,}", dropped, *numbers, f"{stage.seconds:.1f}")
    return shown
