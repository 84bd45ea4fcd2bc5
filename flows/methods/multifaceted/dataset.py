"""What `multifaceted` and `judge` publish: their rows, and the numbers and the picture for the card."""

from collections.abc import Iterator, Mapping
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import polars as pl

from synthmill.flows.methods.multifaceted.rows import ABOUT, TRAINS, aligned_rows, bench_rows, reward_rows, sft_rows
from synthmill.flows.pages.sunburst import sunburst
from synthmill.flows.pages.templates import Manifests, render
from synthmill.schemas.hashing import child_id
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Figure, Kind, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import read_frame, stream_of
from synthmill.tasks.generators.multifaceted.coverage import coverage
from synthmill.tasks.generators.multifaceted.diversity import mean_cosine_distance
from synthmill.tasks.generators.multifaceted.preference_sets import PreferenceSets
from synthmill.tasks.vectors.embeddings import embed

FOLDER = Path(__file__).parent
PICTURE = "values.svg"
COVERAGE = (
    *("split", "dimension", "subdimensions", "their evenness", "evenness dealt", "evenness used"),
    *("seeds dealt", "seeds used"),
)
VALUES_FIGURE = Figure(
    "The values in it", picture=PICTURE, about="Rings from the inside: dimension, subdimension, value."
)
SYSTEMS_COMPARED = 20_000


def multifaceted_dataset(store: Store, manifests: Manifests, sets: PreferenceSets, embedder: str) -> Dataset:
    """The splits, and the card's tables and picture."""
    variants, pairs = stream_of(store, manifests["variants"]), stream_of(store, manifests["aligned_pairs"])
    training, bench = pairs.filter(TRAINS).map(aligned_rows), RowStream.of(pl.DataFrame())
    unseen: set[str] = set()
    if "rubrics" in manifests:
        bench = stream_of(store, manifests["rubrics"]).map(bench_rows)
        unseen = set(read_frame(store, manifests["bench_variants"], ["id"])["id"])

    def is_test(pair: dict[str, Any]) -> bool:
        return child_id(pair["parent_id"], pair["chosen_index"]) in unseen

    aligned_to = pl.struct("parent_id", "chosen_index").map_elements(is_test, return_dtype=pl.Boolean)
    splits: dict[str, tuple[Kind, dict[str, RowStream]]] = {
        "sft": ("conversations", {"train": variants.filter(TRAINS).map(sft_rows)}),
        "small": ("conversations", {"train": variants.filter(TRAINS & pl.col("picked")).map(sft_rows)}),
        "preference": ("preferences", {"train": training}),
        "rm": (
            "other",
            {
                "train": pairs.filter(TRAINS).map(reward_rows),
                "test": pairs.filter(aligned_to).map(reward_rows),
            },
        ),
        "bench": ("other", {"test": bench}),
    }
    values = value_counts(variants)
    measures = measure(store, manifests, sets, embedder, values)
    return Dataset(
        "Multifaceted preference data",
        f"Instructions, each under {sets.count} system messages that stand for {sets.count} people's values.",
        {name: Table(rows, kind, ABOUT[name]) for name, (kind, rows) in splits.items()},
        render("multifaceted.md", FOLDER, **measures, picture=PICTURE),
        {PICTURE: draw_values(values)},
        figures=[
            VALUES_FIGURE,
            Figure(
                "How even the values came out", COVERAGE, tuple(map(coverage_row, measures["coverage"])), text_columns=2
            ),
        ],
    )


def coverage_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A dimension's coverage, as it is printed."""
    numbers = (row[name] for name in ("subdimension_evenness", "dealt_evenness", "used_evenness"))
    shares = (f"{row[name]:.0%}" for name in ("seeds_dealt", "seeds_used"))
    return row["split"], row["dimension"], f"{row['subdimensions']}", *map("{:.3f}".format, numbers), *shares


def measure(
    store: Store, manifests: Manifests, sets: PreferenceSets, embedder: str, values: pl.DataFrame
) -> dict[str, Any]:
    """What survived each step, how even the values came out, how different the variants are; values: counted."""
    return {
        "coverage": [
            row | {"split": split}
            for split, side in sets.sides.items()
            if (counts := values.filter(pl.col("split") == split)).height
            for row in coverage(side, each_value(counts))
        ],
        "diversity": diversity_of(store, manifests, sets, embedder),
    }


VALUE = ("split", "dimension", "subdimension", "preference", "seed", "origin")


def value_counts(variants: RowStream) -> pl.DataFrame:
    """One row per value, in the order in which they come, and how many variants of its split have it."""
    counts = pl.DataFrame(schema={**dict.fromkeys(VALUE, pl.String), "count": pl.Int64})
    for batch in variants.batches(["split", "preference_set"]):
        values = batch.explode("preference_set", empty_as_null=False).unnest("preference_set")
        more = values.group_by(VALUE, maintain_order=True).agg(pl.len().cast(pl.Int64).alias("count"))
        counts = pl.concat([counts, more]).group_by(VALUE, maintain_order=True).agg(pl.col("count").sum())
    return counts


def each_value(counts: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """A row of `value_counts` as often as it counts."""
    for value in counts.iter_rows(named=True):
        yield from repeat(value, value["count"])


def draw_values(values: pl.DataFrame) -> bytes:
    """A sunburst of values, as SVG; values: counted."""
    total = int(values["count"].sum())
    return sunburst(value_tree(values), "The values in this dataset", (f"{total:,}", "values")).encode()


def value_tree(values: pl.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """dimension -> subdimension -> value -> how often; dimensions in the taxonomy's order."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    names = ["dimension", "subdimension", "preference"]
    totals = values.group_by(names, maintain_order=True).agg(pl.col("count").sum())
    for dimension, subdimension, preference, count in totals.iter_rows():
        tree.setdefault(dimension, {}).setdefault(subdimension, {})[preference] = count
    return tree


def diversity_of(store: Store, manifests: Manifests, sets: PreferenceSets, embedder: str) -> dict[str, Any]:
    """Means over instructions of what the stage `diversity` measured, and the spread of all system messages."""
    rows = stream_of(store, manifests["diversity"])
    frame = rows.frame(["description_rouge_l", "alike", "system_spread", "response_rouge_l"])
    messages = (
        message for batch in rows.batches(["systems"]) for lists in batch["systems"].to_list() for message in lists
    )
    systems = list(islice(messages, SYSTEMS_COMPARED))
    by_dimension = {
        dimension.name: frame["description_rouge_l"].list.get(place).mean()
        for place, dimension in enumerate(sets.taxonomy.dimensions)
    }
    return {
        "description_rouge_l": by_dimension,
        "alike": frame["alike"].mean(),
        "system_spread": frame["system_spread"].mean(),
        "system_spread_overall": mean_cosine_distance(embed(embedder, systems, store.root)),
        "response_rouge_l": frame["response_rouge_l"].mean(),
    }
