"""A dataset on the terminal: its first rows by their kind, what its configurations hold, its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

from flows.pages.report_rows import SHOWN, row_of
from flows.terminal.tables import shortened, table
from storage.published.folder import Dataset, Figure

LONGEST = 300  # characters of a text
STYLES = {"assistant": "cyan", "tool": "green", "system": "dim"}


def first_rows(dataset: Dataset, count: int) -> tuple[str, list[dict[str, Any]]]:
    """(kind, rows) of the first configuration that people can read."""
    for table_ in dataset.tables.values():
        if table_.kind in SHOWN and table_.height:
            return table_.kind, table_.rows.take(range(min(count, table_.height))).to_dicts()
    return "other", []


def show_row(console: Any, kind: Any, row: Mapping[str, Any], longest: int = LONGEST) -> None:
    """One row: its messages or texts, a chosen answer beside the rejected one."""
    shown = row_of(kind, row)
    facts = ", ".join(f"{name} {value}" for name, value in shown["facts"])
    console.print()
    console.print(Text(f"{shown['id']}  {facts}".strip(), style="dim"), soft_wrap=True)
    for turn in shown.get("turns", ()):
        style = STYLES.get(turn["role"], "bold")
        console.print(Text.assemble((f"{turn['role']}: ", style), shortened(turn["text"], longest)))
    for name, text in shown.get("texts", ()):
        console.print(Text.assemble((f"{name}: ", "bold"), shortened(text, longest)))
    if "chosen" in shown:
        console.print(Columns([answer_panel(console, shown[side], side, row) for side in ("chosen", "rejected")]))


def answer_panel(console: Any, pieces: Sequence[tuple[str, bool]], side: str, row: Mapping[str, Any]) -> Panel:
    """One answer of a pair under its reward."""
    text = "".join(piece for piece, _ in pieces)
    reward = row.get(f"{side}_reward")
    title = side if reward is None else f"{side} ({reward:.3f})"
    return Panel(Text(shortened(text, 400)), title=Text(title), width=max(30, console.width // 2 - 2))


def show_tables(console: Any, dataset: Dataset) -> None:
    """How many rows each configuration and split has."""
    shown = table("configuration", "split", "rows")
    for name, configuration in dataset.tables.items():
        for split, rows in configuration.splits.items():
            shown.add_row(Text(name), split, f"{rows.height:,}")
    console.print(shown)


def show_figure(console: Any, figure: Figure) -> None:
    """A figure, if it is not a picture."""
    if figure.picture:
        return
    console.print(Text(f"\n{figure.title}", style="bold"), soft_wrap=True)
    if not figure.columns:
        for line in figure.rows:
            console.print(Text(line[0]), soft_wrap=True)
        return
    shown = table(*figure.columns, numbers=figure.columns[figure.texts :])
    for row in figure.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
