"""Pairs and what the rules did, on the terminal."""

from collections.abc import Mapping
from typing import Any

import orjson
import polars as pl

from flows.making.plan import Plan
from flows.pages.templates import two_places
from flows.terminal.tables import shortened, table
from schemas.artifacts import Manifest
from storage.published.publish_preferences import STAYS
from storage.published.rows import stream_of
from tasks.cuts.report import report_lines


def show_preferences(console: Any, planned: Plan, made: Mapping[str, Manifest], most: int, whole: bool) -> None:
    """The first pairs of each rule, then every rule's report, the scorers' agreement, the flags."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    pairs = stream_of(planned.store, made["preferences"]).filter(STAYS)
    half = max(30, console.width // 2 - 2)
    parents = pairs.frame(["parent_id"])["parent_id"].unique(maintain_order=True).head(most)
    first = pairs.filter(pl.col("parent_id").is_in(parents.implode())).frame().unique("parent_id", maintain_order=True)
    for row in first.iter_rows(named=True):
        console.print()
        console.print(Text(f"{row['cut']}, user: {shortened(row['prompt'], 300)}", style="bold"))
        both = [
            Panel(
                Text(shortened(row[name], 100_000 if whole else 400)),
                title=Text(f"{name} {row[f'{name}_policy']} ({row[f'{name}_reward']:.3f})".replace("  ", " ")),
                width=half,
            )
            for name in ("chosen", "rejected")
        ]
        console.print(Columns(both))
    file = planned.dataset / "report.json"
    told = (
        orjson.loads(file.read_bytes()) if file.is_file() else {"cuts": [], "agreement": [], "missing": {}, "flags": {}}
    )
    for n, cut in enumerate(told["cuts"]):
        console.print()
        for line in report_lines(cut, complete=n == 0):
            console.print(Text(line), soft_wrap=True)
    if told["agreement"]:
        shown = table("scorer", "and", "Spearman", "error", "pools", numbers=("Spearman", "error", "pools"))
        for row in told["agreement"]:
            numbers = (two_places(row["spearman"]), two_places(row["error"]), f"{row['pools']:,}")
            shown.add_row(Text(row["one"]), Text(row["other"]), *numbers)
        console.print(shown)
    for name, row in told["missing"].items():
        if row["missing"]:
            console.print(Text(f"{name} is missing for {row['missing']:,} of {row['answers']:,} answers"))
    for flag, count in told["flags"].items():
        console.print(Text(f"{count:,} answers are flagged {flag}"))
