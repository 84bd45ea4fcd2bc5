"""`synthmill diff`: what changed from one run to another."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from rich.console import Console
from rich.text import Text

from flows.commands.existing_store import open_store
from flows.terminal.tables import format_value, shortened, table
from schemas.errors import InputError
from storage.artifacts import Store
from storage.published.folder import Dataset, as_message, read_dataset
from storage.published.row_streams import RowStream
from storage.runs import RunRecord, find_run, manifests_of

Change = tuple[Any, Any]
MISSING = "–"
EXAMPLES = 3
QUANTILES = (0.1, 0.5, 0.9)


def show_difference(place: Path, one: str, other: str, as_json: bool) -> None:
    """Print it. Raises InputError for a run that is not there, and for two of different flows."""
    store = open_store(place)
    runs = find_run(store, one), find_run(store, other)
    if runs[0].flow != runs[1].flow:
        raise InputError(
            f"{runs[0].id} is a run of {runs[0].flow}, {runs[1].id} of {runs[1].flow}: they do not compare"
        )
    found = difference(store, *runs)
    if as_json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    console = Console(emoji=False)
    console.print(f"{runs[0].flow}: {runs[0].id} -> {runs[1].id}", highlight=False)
    for title in ("settings", "models", "prompts"):
        changes = found[title]
        console.print(f"\n[bold]{title}[/bold]" + ("" if changes else ": the same"))
        for name, (before, after) in changes.items():
            console.print(Text(f"  {name}: {told(before)} -> {told(after)}"))
    shown = table("stage", "rows before", "rows after", "dropped before", "dropped after", numbers=NUMBERS)
    for stage, numbers in found["stages"].items():
        shown.add_row(stage, *(MISSING if number is None else f"{number:,}" for number in numbers))
    console.print(shown)
    if found["distributions"]:
        shown = table(
            "what", "", "rows", "mean", "10 %", "median", "90 %", numbers=("rows", "mean", "10 %", "median", "90 %")
        )
        for what, sides in found["distributions"].items():
            for when, numbers in zip(("before", "after"), sides, strict=True):
                cells = [MISSING] * 5 if numbers is None else [f"{numbers[0]:,}", *(f"{n:,.4g}" for n in numbers[1:])]
                shown.add_row(Text(what if when == "before" else ""), when, *cells)
        console.print(shown)
    for name, rows in found["rows"].items():
        console.print(
            f"{name}: {rows['same']:,} rows in both, {rows['changed']:,} changed, {rows['lost']:,} lost, "
            f"{rows['gained']:,} gained",
            highlight=False,
        )
        for what, sign in (("lost_examples", "-"), ("gained_examples", "+")):
            for row_id, text in rows[what]:
                console.print(
                    Text(f"  {sign} {row_id} {shortened(text, 100)}"), style="red" if sign == "-" else "green"
                )


NUMBERS = ("rows before", "rows after", "dropped before", "dropped after")


def told(value: Any) -> str:
    return MISSING if value is None else value if isinstance(value, str) else format_value(value)


def difference(store: Store, one: RunRecord, other: RunRecord) -> dict[str, Any]:
    """Everything that differs, (before, after); rows are told apart by id, and by all they say."""
    made = [manifests_of(store, run) for run in (one, other)]
    datasets = [dataset_of(store, run) for run in (one, other)]
    stages = list(dict.fromkeys([*made[0], *made[1]]))
    counts = {
        stage: [number for count in (rows_of, dropped_of) for number in (count(side.get(stage)) for side in made)]
        for stage in stages
    }
    identities = [{stage: manifest.identity for stage, manifest in side.items()} for side in made]
    return {
        "runs": (one.id, other.id),
        "settings": changes(*(dict(flat(run.settings)) for run in (one, other))),
        "models": changes(*(named(side, "engines") for side in identities)),
        "prompts": changes(*(named(side, "prompts") for side in identities)),
        "stages": counts,
        "distributions": distributions(*datasets),
        "rows": {
            name: compared_rows(*(rows_in(dataset, name) for dataset in datasets))
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


def flat(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{before}.{name}" if before else str(name))
    else:
        yield before, value


def named(identities: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, Any]:
    """stage.name -> prompt hash or model."""
    return {
        f"{stage}.{name}": one for stage, identity in identities.items() for name, one in identity.get(what, {}).items()
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Change]:
    """What is not the same on both sides; None where a side lacks it."""
    return {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    }


def distributions(one: Dataset | None, other: Dataset | None) -> dict[str, list[list[float] | None]]:
    """Rows, mean and quantiles of rewards and of answers' lengths, by configuration."""
    sides = [dict(numbers_of(dataset)) if dataset else {} for dataset in (one, other)]
    return {
        name: [spread(side[name]) if name in side else None for side in sides]
        for name in dict.fromkeys([*sides[0], *sides[1]])
    }


def numbers_of(dataset: Dataset) -> Iterator[tuple[str, pl.Series]]:
    for name, one in dataset.tables.items():
        rows = one.rows
        for column in ("chosen_reward", "rejected_reward"):
            if column in rows.columns:
                yield f"{name}: {column}", rows.frame([column])[column].drop_nulls()
        for column in ("chosen", "rejected", "completion", "messages"):
            if one.kind != "other" and column in rows.columns:
                lengths = [
                    len(as_message(chat[-1]).get("content") or "")
                    for batch in rows.batches([column])
                    for chat in batch[column].to_list()
                    if chat
                ]
                yield f"{name}: characters of {column}", pl.Series(lengths, dtype=pl.Int64)


def spread(numbers: pl.Series) -> list[float] | None:
    if not len(numbers):
        return None
    return [len(numbers), float(numbers.mean()), *(float(numbers.quantile(q, "linear")) for q in QUANTILES)]  # type: ignore[arg-type]


def compared_rows(before: RowStream, after: RowStream) -> dict[str, Any]:
    """Rows by id: in both, changed, lost, gained; with the first of those lost and gained."""
    one, other = hashed(before), hashed(after)
    both = one.join(other, "id", suffix="_after")
    changed = both.filter(pl.col("said") != pl.col("said_after")).height
    lost, gained = one.join(other, "id", "anti"), other.join(one, "id", "anti")
    return {
        "same": both.height - changed,
        "changed": changed,
        "lost": lost.height,
        "gained": gained.height,
        "lost_examples": examples(before, lost),
        "gained_examples": examples(after, gained),
    }


def hashed(rows: RowStream) -> pl.DataFrame:
    """id, said: a number for all that the rows of an id say, in any order."""
    if "id" not in rows.columns:
        return pl.DataFrame(schema={"id": pl.String, "said": pl.UInt64})
    several = len(rows.columns) > 1
    line = pl.struct(pl.exclude("id")).struct.json_encode().hash() if several else pl.lit(0, pl.UInt64)
    lines = pl.concat([batch.select("id", said=line) for batch in rows.batches()])
    return lines.group_by("id", maintain_order=True).agg(pl.col("said").sum())


def examples(rows: RowStream, some: pl.DataFrame) -> list[tuple[str, str]]:
    """The first of some ids, each with what its row is about."""
    ids = some["id"].head(EXAMPLES)
    if not len(ids):
        return []
    chosen = rows.filter(pl.col("id").is_in(ids.implode())).frame().unique("id", keep="first", maintain_order=True)
    return [(row["id"], text_of(row)) for row in chosen.to_dicts()]


def text_of(row: Mapping[str, Any]) -> str:
    """What a row is about, in a few words."""
    for name in ("prompt", "messages", "query", "anchor", "pseudo_input", "input"):
        value = row.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            return str(as_message(value[-1]).get("content", ""))
    return ""
