"""`synthmill ls`: the runs and artifacts of a store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.terminal.tables import NUMBERS, objects, print_json

RUNS = "SELECT run, flow, status, calls, tokens FROM runs ORDER BY run"
ARTIFACTS = """
    SELECT artifact, rows_in, rows, dropped, replace(made_at[:16], 'T', ' ') AS made_at FROM artifacts
    ORDER BY made_at, artifact"""


def show_list(place: Path, as_json: bool = False) -> None:
    """Print every run and every artifact. Lines are printed plainly: a table of rich takes seconds for ten thousand."""
    from synthmill.storage.catalog import open_catalog, run_sql

    with open_catalog(existing_store(place), calls=False) as catalog:
        (run_columns, runs), (artifact_columns, artifacts) = (run_sql(catalog, sql) for sql in (RUNS, ARTIFACTS))
    if as_json:
        print_json({"runs": objects(run_columns, runs), "artifacts": objects(artifact_columns, artifacts)})
        return
    print_columns(run_columns, runs)
    print_columns(("artifact", "rows in", "rows", "dropped", "made"), artifacts)


def print_columns(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table as wide as its texts."""
    cells = [[f"{value:,}" if isinstance(value, int) else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, ["─" * width for width in widths], *cells]
    are_numbers = [name in NUMBERS for name in columns]
    print()
    for line in lines:
        padded = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, are_numbers, strict=True)
        ]
        print("  ".join(padded).rstrip())
