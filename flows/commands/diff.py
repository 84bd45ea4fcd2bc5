"""`synthmill diff`: what changed from one run to another."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from rich.console import Console
from rich.text import Text

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.terminal.tables import format_value, shortened, table
from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import Store
from synthmill.storage.published.chats import as_message
from synthmill.storage.published.configurations import Dataset
from synthmill.storage.published.folder import read_dataset
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.runs import RunRecord, find_run, manifests_of

Change = tuple[Any, Any]
MISSING = "–"
EXAMPLES = 3
QUANTILES = (0.1, 0.5, 0.9)


def show_difference(place: Path, run_a: str, run_b: str, as_json: bool) -> None:
    """Print what changed. Raises InputError for a run that is not there, and for runs of different flows."""
    store = existing_store(place)
    before, after = find_run(store, run_a), find_run(store, run_b)
    if before.flow != after.flow:
        raise InputError(f"{before.id} is a run of {before.flow}, {after.id} of {after.flow}: they do not compare")
    differences = difference(store, before, after)
    if as_json:
        print(orjson.dumps(differences, option=orjson.OPT_INDENT_2).decode())
        return
    console = Console(emoji=False)
    console.print(f"{before.flow}: {before.id} -> {after.id}", highlight=False)
    for title in ("settings", "models", "prompts"):
        print_changes(console, title, differences[title])
    lines = table("stage", "rows before", "rows after", "dropped before", "dropped after", numbers=NUMBERS)
    for stage, numbers in differences["stages"].items():
        lines.add_row(stage, *(MISSING if number is None else f"{number:,}" for number in numbers))
    console.print(lines)
    if differences["distributions"]:
        console.print(distributions_table(differences["distributions"]))
    for name, rows in differences["rows"].items():
        print_changed_rows(console, name, rows)


def print_changes(console: Console, title: str, changes: Mapping[str, Change]) -> None:
    """What changed of one kind, a line each."""
    console.print(f"\n[bold]{title}[/bold]" + ("" if changes else ": the same"))
    for name, (before, after) in changes.items():
        console.print(Text(f"  {name}: {format_side(before)} -> {format_side(after)}"))


def distributions_table(distributions: Mapping[str, Sequence[Sequence[float] | None]]) -> Any:
    """Two lines for each distribution: before and after."""
    numbers = ("rows", "mean", "10 %", "median", "90 %")
    lines = table("what", "", *numbers, numbers=numbers)
    for what, sides in distributions.items():
        for when, side in zip(("before", "after"), sides, strict=True):
            cells = [MISSING] * 5 if side is None else [f"{side[0]:,}", *(f"{n:,.4g}" for n in side[1:])]
            lines.add_row(Text(what if when == "before" else ""), when, *cells)
    return lines


def print_changed_rows(console: Console, name: str, rows: Mapping[str, Any]) -> None:
    """How many rows of a configuration changed, and the first of those lost and gained."""
    console.print(
        f"{name}: {rows['same']:,} rows in both, {rows['changed']:,} changed, {rows['lost']:,} lost, "
        f"{rows['gained']:,} gained",
        highlight=False,
    )
    for what, sign in (("lost_examples", "-"), ("gained_examples", "+")):
        for row_id, text in rows[what]:
            console.print(Text(f"  {sign} {row_id} {shortened(text, 100)}"), style="red" if sign == "-" else "green")


NUMBERS = ("rows before", "rows after", "dropped before", "dropped after")


def format_side(value: Any) -> str:
    return MISSING if value is None else value if isinstance(value, str) else format_value(value)


def difference(store: Store, before: RunRecord, after: RunRecord) -> dict[str, Any]:
    """Everything that differs, (before, after); rows are matched by id, and compared by all that they say."""
    runs = (before, after)
    manifests = [manifests_of(store, run) for run in runs]
    datasets = [dataset_of(store, run) for run in runs]
    stages = list(dict.fromkeys([*manifests[0], *manifests[1]]))
    counts = {
        stage: [number for count in (rows_of, dropped_of) for number in (count(side.get(stage)) for side in manifests)]
        for stage in stages
    }
    identities = [{stage: manifest.identity for stage, manifest in side.items()} for side in manifests]
    return {
        "runs": (before.id, after.id),
        "settings": changes(*(dict(flatten(run.settings)) for run in runs)),
        "models": changes(*(by_stage(side, "engines") for side in identities)),
        "prompts": changes(*(by_stage(side, "prompts") for side in identities)),
        "stages": counts,
        "distributions": distributions(*datasets),
        "rows": {
            name: compare_rows(*(rows_in(dataset, name) for dataset in datasets))
            for name in dict.fromkeys(name for dataset in datasets if dataset for name in dataset.tables)
        },
    }


def rows_of(manifest: Any) -> int | None:
    return manifest.rows if manifest else None


def dropped_of(manifest: Any) -> int | None:
    return sum(manifest.dropped.values()) if manifest else None


def dataset_of(store: Store, run: RunRecord) -> Dataset | None:
    return read_dataset(store.root / "datasets" / Path(run.dataset).name) if run.dataset else None


def rows_in(dataset: Dataset | None, name: str) -> RowStream:
    table = dataset.tables.get(name) if dataset else None
    return table.rows if table else RowStream.of(pl.DataFrame())


def flatten(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flatten(inner, f"{before}.{name}" if before else str(name))
    else:
        yield before, value


def by_stage(identities: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, Any]:
    """stage.name -> prompt hash or model. what: prompts or engines."""
    return {
        f"{stage}.{name}": value
        for stage, identity in identities.items()
        for name, value in identity.get(what, {}).items()
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Change]:
    """What is not the same on both sides; None where a side lacks it."""
    return {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    }


def distributions(before: Dataset | None, after: Dataset | None) -> dict[str, list[list[float] | None]]:
    """Rows, mean and quantiles of rewards and of answers' lengths, by configuration."""
    sides = [dict(numbers_of(dataset)) if dataset else {} for dataset in (before, after)]
    return {
        name: [statistics(side[name]) if name in side else None for side in sides]
        for name in dict.fromkeys([*sides[0], *sides[1]])
    }


def numbers_of(dataset: Dataset) -> Iterator[tuple[str, pl.Series]]:
    for name, configuration in dataset.tables.items():
        rows = configuration.rows
        for column in ("chosen_reward", "rejected_reward"):
            if column in rows.columns:
                yield f"{name}: {column}", rows.frame([column])[column].drop_nulls()
        for column in ("chosen", "rejected", "completion", "messages"):
            if configuration.kind != "other" and column in rows.columns:
                lengths = [
                    len(as_message(chat[-1]).get("content") or "")
                    for batch in rows.batches([column])
                    for chat in batch[column].to_list()
                    if chat
                ]
                yield f"{name}: characters of {column}", pl.Series(lengths, dtype=pl.Int64)


def statistics(numbers: pl.Series) -> list[float] | None:
    """Their count, mean and quantiles; None where there are none."""
    if not len(numbers):
        return None
    return [len(numbers), float(numbers.mean()), *(float(numbers.quantile(q, "linear")) for q in QUANTILES)]  # type: ignore[arg-type]


def compare_rows(before: RowStream, after: RowStream) -> dict[str, Any]:
    """Rows by id: in both, changed, lost, gained; with the first of those lost and gained."""
    left, right = hash_rows(before), hash_rows(after)
    common = left.join(right, "id", suffix="_after")
    changed = common.filter(pl.col("hash") != pl.col("hash_after")).height
    lost, gained = left.join(right, "id", "anti"), right.join(left, "id", "anti")
    return {
        "same": common.height - changed,
        "changed": changed,
        "lost": lost.height,
        "gained": gained.height,
        "lost_examples": examples(before, lost),
        "gained_examples": examples(after, gained),
    }


def hash_rows(rows: RowStream) -> pl.DataFrame:
    """id, hash: a number for all that the rows of an id say, in any order."""
    if "id" not in rows.columns:
        return pl.DataFrame(schema={"id": pl.String, "hash": pl.UInt64})
    several = len(rows.columns) > 1
    line = pl.struct(pl.exclude("id")).struct.json_encode().hash() if several else pl.lit(0, pl.UInt64)
    lines = pl.concat([batch.select("id", hash=line) for batch in rows.batches()])
    return lines.group_by("id", maintain_order=True).agg(pl.col("hash").sum())


def examples(rows: RowStream, chosen: pl.DataFrame) -> list[tuple[str, str]]:
    """The first of the chosen ids, each with what its row is about."""
    ids = chosen["id"].head(EXAMPLES)
    if not len(ids):
        return []
    first = rows.filter(pl.col("id").is_in(ids.implode())).frame().unique("id", keep="first", maintain_order=True)
    return [(row["id"], text_of(row)) for row in first.to_dicts()]


def text_of(row: Mapping[str, Any]) -> str:
    """What a row is about, in a few words."""
    for name in ("prompt", "messages", "query", "anchor", "pseudo_input", "input"):
        value = row.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            return str(as_message(value[-1]).get("content", ""))
    return ""
