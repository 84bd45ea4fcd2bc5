"""`synthmill ls`, `show`, `sql` and `calls`: reading a store."""

import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from schemas.artifacts import Manifest
from schemas.errors import InputError, StoreError
from storage.artifacts import Store, read_part

ROWS_SHOWN = 100
SPEND = """
    SELECT stage, role, engine, sum(calls)::BIGINT AS calls, sum(prompt_tokens)::BIGINT AS prompt_tokens,
    sum(completion_tokens)::BIGINT AS completion_tokens FROM spend GROUP BY ALL ORDER BY ALL"""


def open_store(place: Path) -> Store:
    """An existing store; raises StoreError when there is none."""
    store = Store(place.expanduser().resolve())
    if not (store.root / "artifacts").is_dir():
        raise StoreError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    return store


def table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in ("rows in", "rows", "calls", "reused", "tokens", "seconds")
        made.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=right or column == "stage"
        )
    return made


def show_list(place: Path) -> None:
    from rich.console import Console

    from storage.runs import runs

    store, console = open_store(place), Console()
    of_runs = table("run", "flow", "status", "started", "calls", "tokens", "error")
    for run in runs(store):
        sent, tokens = (sum(stage.total(what) for stage in run.stages) for what in ("sent", "completion_tokens"))
        of_runs.add_row(run.id, run.flow, run.status, run.started_at, f"{sent:,}", f"{tokens:,}", run.error[:80])
    of_artifacts = table("artifact", "rows in", "rows", "dropped", "made")
    for manifest in store.manifests():
        dropped = sum(manifest.dropped.values())
        of_artifacts.add_row(
            manifest.reference, f"{manifest.rows_in:,}", f"{manifest.rows:,}", f"{dropped:,}", manifest.made_at
        )
    console.print(of_runs)
    console.print(of_artifacts)


def find_artifact(store: Store, name: str) -> Manifest:
    """By reference, by key or its beginning, or by stage (the latest). Raises InputError with what there is."""
    manifests = list(store.manifests())
    for manifest in reversed(manifests):
        if name in (manifest.reference, manifest.stage) or (len(name) >= 6 and manifest.key.startswith(name)):
            return manifest
    there = ", ".join(manifest.reference for manifest in manifests[-8:]) or "nothing yet"
    raise InputError(f"{store.root} has no artifact {name!r}; there is {there}")


def show_artifact(place: Path, name: str, rows: int) -> None:
    import orjson
    import pyarrow.parquet as pq
    from rich.console import Console

    store, console = open_store(place), Console()
    manifest = find_artifact(store, name)
    console.print(
        f"[bold]{manifest.reference}[/bold]  {manifest.rows:,} rows of {manifest.rows_in:,}, "
        f"{len(manifest.parts)} parts"
    )
    console.print(f"made {manifest.made_at} by run {manifest.run}", highlight=False)
    for name_, value in manifest.identity.items():
        if value not in ("", {}, []):
            said = value if isinstance(value, str) else orjson.dumps(value).decode()
            console.print(f"  {name_}: {said}", soft_wrap=True, highlight=False, markup=False)
    by_key = {other.key: other.reference for other in store.manifests()}
    for key in manifest.sources:
        console.print(f"  made from: {by_key.get(key, key)}", highlight=False)
    for role, spent in manifest.spent.items():
        said = ", ".join(f"{number:,} {what}" for what, number in spent.items())
        console.print(f"  {role}: {said}", highlight=False, markup=False)
    console.print("  columns: " + ", ".join(manifest.columns), soft_wrap=True, highlight=False, markup=False)
    if manifest.dropped:
        console.print(
            "  dropped: " + ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items()), markup=False
        )
        shown = 0
        for seal in manifest.parts:
            if seal.dropped_file and shown < rows and (store.root / seal.dropped_file).exists():
                for row in pq.read_table(store.root / seal.dropped_file).to_pylist()[: rows - shown]:
                    shown += 1
                    console.print(
                        f"    {row['id']}: {row['reason']} {row['detail']}"[:300], highlight=False, markup=False
                    )
    left = rows
    for seal in manifest.parts:
        for row in read_part(store, seal).slice(0, left).to_pylist():
            left -= 1
            console.print()
            for column, value in row.items():
                said = " ".join(str(value).split())
                console.print(
                    f"  {column}: {said[:400]}{'…' if len(said) > 400 else ''}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        if left <= 0:
            break


def show_query(place: Path, sql: str, as_csv: bool) -> None:
    import csv

    from rich.console import Console

    from storage.catalog import query

    columns, rows = query(open_store(place), sql)
    cells = [
        ["" if value is None else value if isinstance(value, str) else plain(value) for value in row] for row in rows
    ]
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(cells)
        return
    shown = table(*columns)
    for cell in cells[:ROWS_SHOWN]:
        shown.add_row(*(Text(shortened(value, 400)) for value in cell))
    Console().print(shown)
    if len(cells) > ROWS_SHOWN:
        print(f"{len(cells):,} rows, the first {ROWS_SHOWN} are shown; --csv prints all", file=sys.stderr)


def plain(value: Any) -> str:
    """Numbers as they are, lists and structs as JSON."""
    import orjson

    return orjson.dumps(value, default=str).decode() if isinstance(value, dict | list) else str(value)


def shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def show_calls(place: Path, record: Path | None) -> None:
    from storage.calls import record_to
    from storage.catalog import rebuild

    store = open_store(place)
    if record:
        answers = record_to(store.calls, record.expanduser().resolve())
        print(f"{answers:,} answers -> {record}; replay them with an engine replay:{record}", file=sys.stderr)
        return
    rebuild(store)
    show_query(place, SPEND, as_csv=False)
