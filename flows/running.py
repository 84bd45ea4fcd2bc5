"""`synthmill run`: plan, check, run under Prefect, and say where things are."""

import sys
from typing import Any

from flows.plan import Plan, plan
from flows.stopping import stop_on_signals
from schemas.settings import SynthesizeSettings
from storage.runs import RunRecord, runs, summary


def run_flow(settings: SynthesizeSettings, *, dry_run: bool, preview: bool) -> None:
    """Run `synthesize` with these settings. A run with nothing left to make starts neither Prefect, nor Ray, nor an
    engine.
    """
    planned = plan(settings)
    if dry_run:
        from flows.checks import check

        check(planned)
        return
    if planned.is_done():
        print("nothing to do: every artifact of this run is made, whole and up to date", file=sys.stderr)
    else:
        run_under_prefect(planned.settings)
    report(planned, preview)


def run_under_prefect(settings: SynthesizeSettings) -> None:
    from flows.server import prefect_server

    stop_on_signals()
    with prefect_server():
        from flows.synthesize import synthesize

        synthesize(settings)


def report(planned: Plan, preview: bool) -> None:
    """The summary table, where things are, a few rows, and what to try next."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    keys = [step.key for step in planned.stages]
    made = [record for record in runs(planned.store) if record.stages and record.stages[-1].key == keys[-1]]
    if made:
        console.print(Markdown(summary(made[-1]).replace("# ", "**", 1).replace("\n", "**\n", 1)))
    show_rows(console, planned, rows=planned.settings.source.limit or 3 if preview else 3)
    write_summary(planned, made)
    console.print()
    console.print(f"dataset  {planned.dataset}", soft_wrap=True, highlight=False)
    console.print(f"catalog  {planned.store.catalog}", soft_wrap=True, highlight=False)
    console.print(f"summary  {planned.dataset / 'SUMMARY.md'}", soft_wrap=True, highlight=False)


def write_summary(planned: Plan, made: list[RunRecord]) -> None:
    from storage.files import write_text

    if made:
        write_text(planned.dataset / "SUMMARY.md", summary(made[-1]))


def show_rows(console: Any, planned: Plan, rows: int) -> None:
    """The first pairs, chosen beside rejected."""
    import polars as pl
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    files = sorted((planned.dataset / "data").glob("*.parquet"))
    if not files:
        return
    for row in pl.read_parquet(files).head(rows).iter_rows(named=True):
        console.print()
        for message in row["prompt"]:
            console.print(
                Text(
                    f"{message['role']}: {shortened(message['content'], 300)}",
                    style="bold" if message["role"] == "user" else "",
                )
            )
        half = max(30, console.width // 2 - 2)
        both = [
            Panel(
                Text(shortened(row[name][0]["content"], 400)), title=f"{name} ({row[name + '_reward']:.3f})", width=half
            )
            for name in ("chosen", "rejected")
        ]
        console.print(Columns(both))


def shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
