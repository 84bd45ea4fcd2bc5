"""`synthmill sql`: a query of a store's catalog."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.terminal.tables import CELL, format_value, objects, print_json, shortened, table

ROWS_SHOWN = 100


def show_query(place: Path, sql: str, as_csv: bool, as_json: bool = False) -> None:
    """Print what a query finds: as JSON, an object per row; as CSV; as a table, or, where that is too wide, a block per
    row.
    """
    from synthmill.storage.catalog import query

    columns, rows = query(existing_store(place), sql)
    if as_json:
        print_json(objects(columns, rows))
        return
    cells = [
        ["" if value is None else value if isinstance(value, str) else format_value(value) for value in row]
        for row in rows
    ]
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(cells)
        return
    print_result(columns, rows, cells)
    if len(cells) > ROWS_SHOWN:
        print(f"{len(cells):,} rows, the first {ROWS_SHOWN} are shown; --csv prints all", file=sys.stderr)


def print_result(columns: Sequence[str], rows: Sequence[Sequence[Any]], cells: Sequence[Sequence[str]]) -> None:
    """The first rows. cells: the rows' values as text."""
    from rich.console import Console
    from rich.text import Text

    console = Console(emoji=False)
    widths = (max([len(name), *(min(len(line[n]), CELL) for line in cells)]) for n, name in enumerate(columns))
    if sum(width + 2 for width in widths) > console.width:
        for line in cells[:ROWS_SHOWN]:
            console.rule(style="dim")
            for name, value in zip(columns, line, strict=True):
                console.print(Text.assemble((f"{name}: ", "dim"), shortened(value, 400)))
        return
    lines = table()
    for n, name in enumerate(columns):
        are_numbers = bool(rows) and all(isinstance(row[n], int | float | None) for row in rows)
        lines.add_column(Text(name), justify="right" if are_numbers else "left", no_wrap=True)
    for line in cells[:ROWS_SHOWN]:
        lines.add_row(*(Text(shortened(value, CELL)) for value in line))
    console.print(lines)
