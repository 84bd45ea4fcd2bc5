"""`synthmill ls`, `show`, `sql` and `calls`: reading a store."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.text import Text

from flows.terminal.tables import CELL, NUMBERS, format_value, shortened, table
from schemas.artifacts import Manifest
from schemas.errors import InputError
from schemas.kinds import KindSettings
from storage.artifacts import Store, read_dropped, read_manifest, read_part
from storage.sql import check_path

ROWS_SHOWN = 100
RUNS = "SELECT run, flow, status, calls, tokens FROM runs ORDER BY run"
ARTIFACTS = """
    SELECT artifact, rows_in, rows, dropped, replace(made_at[:16], 'T', ' ') FROM artifacts
    ORDER BY made_at, artifact"""
SPEND = """
    SELECT stage, role, engine, sum(calls)::BIGINT AS calls, sum(prompt_tokens)::BIGINT AS "tokens in",
    sum(completion_tokens)::BIGINT AS "tokens out" FROM spend GROUP BY ALL ORDER BY ALL"""


def open_store(place: Path) -> Store:
    """An existing store; raises InputError when there is none."""
    store = Store(place.expanduser().resolve())
    check_path(store.root)
    if not (store.root / "artifacts").is_dir():
        raise InputError(
            f"{store.root} is no synthmill store; name one with --store, or make one with `synthmill run` or `sample`"
        )
    store.check_format()
    return store


def show_list(place: Path) -> None:
    """Every run and every artifact. Lines are printed plainly: a table of rich takes seconds for ten thousand."""
    from storage.catalog import open_catalog, run_sql

    with open_catalog(open_store(place), calls=False) as catalog:
        runs = run_sql(catalog, RUNS)[1]
        artifacts = run_sql(catalog, ARTIFACTS)[1]
    print_columns(("run", "flow", "status", "calls", "tokens"), runs)
    print_columns(("artifact", "rows in", "rows", "dropped", "made"), artifacts)


def print_columns(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table as wide as its texts."""
    cells = [[f"{value:,}" if isinstance(value, int) else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, ["─" * width for width in widths], *cells]
    right = [name in NUMBERS for name in columns]
    print()
    for line in lines:
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def find_artifact(store: Store, name: str) -> tuple[Manifest, list[str]] | None:
    """By reference, by key or its beginning, or by stage (the latest); with the names of what it was made from."""
    from storage.catalog import open_catalog

    with open_catalog(store, calls=False) as catalog:
        row = catalog.execute(
            "SELECT stage, key FROM artifacts WHERE artifact = $name OR stage = $name "
            "OR (length($name) >= 6 AND starts_with(key, $name)) ORDER BY made_at DESC LIMIT 1",
            {"name": name},
        ).fetchone()
        if row is None:
            return None
        manifest = read_manifest(store.manifest_path(*row))
        named = catalog.execute(
            "SELECT key, artifact FROM artifacts WHERE key IN (SELECT unnest(?))", [list(manifest.sources)]
        ).fetchall()
    return manifest, [dict(named).get(key, key) for key in manifest.sources]


def show_artifact(place: Path, name: str, rows: int) -> bool:
    """Whether there is one of this name."""
    import orjson
    from rich.console import Console

    store, console = open_store(place), Console(emoji=False)
    artifact = find_artifact(store, name)
    if artifact is None:
        return False
    manifest, sources = artifact
    console.print(
        f"[bold]{manifest.reference}[/bold]  {manifest.rows:,} rows of {manifest.rows_in:,}, "
        f"{len(manifest.parts)} parts"
    )
    console.print(f"made {manifest.made_at} by run {manifest.run}", highlight=False)
    for name_, value in manifest.identity.items():
        if value not in ("", {}, []):
            said = value if isinstance(value, str) else orjson.dumps(value).decode()
            console.print(f"  {name_}: {said}", soft_wrap=True, highlight=False, markup=False)
    for source in sources:
        console.print(f"  made from: {source}", highlight=False)
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
        ["" if value is None else value if isinstance(value, str) else format_value(value) for value in row]
        for row in rows
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


def show_calls(place: Path, record: Path | None) -> None:
    from storage.calls import record_to

    store = open_store(place)
    if record:
        answers = record_to(store.calls, record.expanduser().resolve())
        print(f"{answers:,} answers -> {record}; replay them with an engine replay:{record}", file=sys.stderr)
        return
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
    if issubclass(model, KindSettings):
        yield f"{before}kind", "", f"{', '.join(model.kinds())}; or all in one string: {model.spellings()}"
    for owners, name, field in fields_of(model):
        types = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        inner = next((kind for kind in types if issubclass(kind, BaseModel)), None)
        default = "" if field.is_required() or inner else str(field.get_default(call_default_factory=True))
        if inner is None or name == "engines":
            yield before + name, "" if name == "engines" else default, owners + (field.description or "")
        if inner is not None:
            yield from settings_of(inner, f"{before}{'engines.ROLE' if name == 'engines' else name}.")


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, FieldInfo]]:
    """(whose it is, name, field); of a union the fields of all its kinds, each after the kinds that have it."""
    if not issubclass(model, KindSettings):
        yield from (("", name, field) for name, field in model.model_fields.items())
        return
    kinds = model.kinds()
    fields: dict[tuple[str, str | None], list[str]] = {}
    for kind, settings in kinds.items():
        for name, field in settings.model_fields.items():
            fields.setdefault((name, field.description), []).append(kind)
    for (name, _), owners in fields.items():
        if name != "kind":
            whose = "" if len(owners) == len(kinds) else f"{', '.join(owners)}: "
            yield whose, name, kinds[owners[0]].model_fields[name]
