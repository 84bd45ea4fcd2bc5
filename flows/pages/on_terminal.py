"""A dataset on the terminal: its first rows by their kind, what its configurations hold, its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

from synthmill.flows.pages.report_rows import readable, row_of
from synthmill.flows.terminal.tables import shortened, table
from synthmill.storage.published.configurations import Dataset, Figure

LONGEST = 300  # characters of a text
LINES = 8  # of a figure that is lines
STYLES = {"assistant": "cyan", "tool": "green", "system": "dim"}


def first_rows(dataset: Dataset, count: int) -> tuple[str, list[dict[str, Any]]]:
    """(kind, rows) of the first configuration that people can read."""
    for configuration in readable(dataset).values():
        return configuration.kind, configuration.rows.take(range(min(count, configuration.height))).to_dicts()
    return "other", []


def show_row(console: Any, kind: Any, row: Mapping[str, Any], longest: int = LONGEST) -> None:
    """One row: its messages or texts, a chosen answer beside the rejected one."""
    view = row_of(kind, row)
    facts = ", ".join(f"{name} {value}" for name, value in view["facts"])
    console.print()
    console.print(Text(f"{view['id']}  {facts}".strip(), style="dim"), soft_wrap=True)
    for turn in view.get("turns", ()):
        style = STYLES.get(turn["role"], "bold")
        console.print(Text.assemble((f"{turn['role']}: ", style), shortened(turn["text"], longest)))
    for name, text in view.get("texts", ()):
        console.print(Text.assemble((f"{name}: ", "bold"), shortened(text, longest)))
    if "chosen" in view:
        console.print(Columns([answer_panel(console, view[side], side, row) for side in ("chosen", "rejected")]))


def answer_panel(console: Any, pieces: Sequence[tuple[str, bool]], side: str, row: Mapping[str, Any]) -> Panel:
    """One answer of a pair under its reward."""
    text = "".join(piece for piece, _ in pieces)
    reward = row.get(f"{side}_reward")
    title = side if reward is None else f"{side} ({reward:.3f})"
    return Panel(Text(shortened(text, 400)), title=Text(title), width=max(30, console.width // 2 - 2))


def show_tables(console: Any, dataset: Dataset) -> None:
    """How many rows each configuration and split has."""
    lines = table("configuration", "split", "rows")
    for name, configuration in dataset.tables.items():
        for split, rows in configuration.splits.items():
            lines.add_row(Text(name), split, f"{rows.height:,}")
    console.print(lines)


def show_figure(console: Any, figure: Figure) -> None:
    """A figure, if it is not a picture; of one that is lines, the first."""
    if figure.picture:
        return
    console.print(Text(f"\n{figure.title}", style="bold"), soft_wrap=True)
    if not figure.columns:
        for texts in figure.rows[:LINES]:
            console.print(Text(texts[0]), soft_wrap=True)
        if len(figure.rows) > LINES:
            console.print(Text(f"… {len(figure.rows) - LINES} more lines in the report", style="dim"))
        return
    lines = table(*figure.columns, numbers=figure.columns[figure.text_columns :])
    for row in figure.rows:
        lines.add_row(*map(Text, row))
    console.print(lines)
