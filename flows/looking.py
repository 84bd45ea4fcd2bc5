"""`synthmill ls`, `show`, `sql` and `calls`: reading a store."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from rich.text import Text

from schemas.artifacts import Manifest
from schemas.errors import InputError
from schemas.texts import one_line
from storage.artifacts import Store, read_dropped, read_part

ROWS_SHOWN = 100
CELL = 60  # characters of a table's cell
NUMBERS = ("in", "out", "rows in", "rows", "dropped", "calls", "reused", "tokens", "tokens in", "tokens out", "seconds")
SPEND = """
    SELECT stage, role, engine, sum(calls)::BIGINT AS calls, sum(prompt_tokens)::BIGINT AS "tokens in",
    sum(completion_tokens)::BIGINT AS "tokens out" FROM spend GROUP BY ALL ORDER BY ALL"""


def open_store(place: Path) -> Store:
    """An existing store; raises InputError when there is none."""
    store = Store(place.expanduser().resolve())
    if not (store.root / "artifacts").is_dir():
        raise InputError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    store.check_format()
    return store


def table(*columns: str, numbers: Sequence[str] = NUMBERS) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in numbers
        whole = right or column in ("stage", "run", "artifact", "made", "status")
        made.add_column(Text(column), justify="right" if right else "left", overflow="fold", no_wrap=whole)
    return made


def show_list(place: Path) -> None:
    from rich.console import Console

    from storage.runs import runs

    store, console = open_store(place), Console(emoji=False)
    of_runs = table("run", "flow", "status", "calls", "tokens")
    for run in runs(store):
        sent, tokens = (sum(stage.total(what) for stage in run.stages) for what in ("sent", "completion_tokens"))
        of_runs.add_row(run.id, run.flow, run.status, f"{sent:,}", f"{tokens:,}")
    of_artifacts = table("artifact", "rows in", "rows", "dropped", "made")
    for manifest in store.manifests():
        dropped = sum(manifest.dropped.values())
        made = manifest.made_at[:16].replace("T", " ")
        of_artifacts.add_row(manifest.reference, f"{manifest.rows_in:,}", f"{manifest.rows:,}", f"{dropped:,}", made)
    console.print(of_runs)
    console.print(of_artifacts)


def find_artifact(store: Store, name: str) -> Manifest | None:
    """By reference, by key or its beginning, or by stage (the latest)."""
    for manifest in reversed(list(store.manifests())):
        if name in (manifest.reference, manifest.stage) or (len(name) >= 6 and manifest.key.startswith(name)):
            return manifest
    return None


def show_artifact(place: Path, name: str, rows: int) -> bool:
    """Whether there is one of this name."""
    import orjson
    from rich.console import Console

    store, console = open_store(place), Console(emoji=False)
    manifest = find_artifact(store, name)
    if manifest is None:
        return False
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
    if manifest.notes:
        console.print(
            f"  notes: {orjson.dumps(manifest.notes).decode()}", soft_wrap=True, highlight=False, markup=False
        )
    console.print("  columns: " + ", ".join(manifest.columns), soft_wrap=True, highlight=False, markup=False)
    if manifest.dropped:
        console.print(
            "  dropped: " + ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items()), markup=False
        )
        gone = (row for seal in manifest.parts for row in read_dropped(store, seal))
        for row in islice(gone, rows):
            console.print(f"    {row.id}: {row.reason} {row.detail}"[:300], highlight=False, markup=False)
    left = rows
    for seal in manifest.parts:
        for kept in read_part(store, seal).slice(0, left).to_pylist():
            left -= 1
            console.print()
            for column, value in kept.items():
                said = " ".join(str(value).split())
                console.print(
                    f"  {column}: {said[:400]}{'…' if len(said) > 400 else ''}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        if left <= 0:
            break
    return True


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
    console = Console(emoji=False)
    if (
        sum(max([len(name), *(min(len(one[n]), CELL) for one in cells)]) + 2 for n, name in enumerate(columns))
        > console.width
    ):
        for cell in cells[:ROWS_SHOWN]:  # too wide for a table: a record a block
            console.rule(style="dim")
            for name, value in zip(columns, cell, strict=True):
                console.print(Text.assemble((f"{name}: ", "dim"), shortened(value, 400)))
    else:
        shown = table()
        for n, name in enumerate(columns):
            numbers = bool(rows) and all(isinstance(row[n], int | float | None) for row in rows)
            shown.add_column(Text(name), justify="right" if numbers else "left", no_wrap=True)
        for cell in cells[:ROWS_SHOWN]:
            shown.add_row(*(Text(shortened(value, CELL)) for value in cell))
        console.print(shown)
    if len(cells) > ROWS_SHOWN:
        print(f"{len(cells):,} rows, the first {ROWS_SHOWN} are shown; --csv prints all", file=sys.stderr)


def plain(value: Any) -> str:
    """Numbers as they are (fractions to four places), lists and structs as JSON."""
    import orjson

    if isinstance(value, float):
        return f"{value:.4f}"
    return orjson.dumps(value, default=str).decode() if isinstance(value, dict | list) else str(value)


def shortened(text: str, most: int) -> str:
    text = one_line(text)
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


def show_settings_of(model: type[BaseModel]) -> None:
    """Every setting by its dotted name, with default and meaning."""
    from rich.console import Console

    shown = table()
    for column in ("setting", "default", "meaning"):
        shown.add_column(column, overflow="fold", no_wrap=column == "setting")
    for name, default, meaning in settings_of(model):
        shown.add_row(Text(name), Text(default), Text(meaning))
    Console(emoji=False).print(shown)


def settings_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, meaning) of every field, nested ones included."""
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        inner = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
        given = "" if field.is_required() or inner else str(field.get_default(call_default_factory=True))
        if inner is None or name == "engines":
            yield before + name, "" if name == "engines" else given, field.description or ""
        if inner is not None:
            yield from settings_of(inner, f"{before}{'engines.ROLE' if name == 'engines' else name}.")
