"""What `multifaceted` and `judge` publish: their rows, and the numbers and the picture for the card."""

from typing import Any

import polars as pl

from flows.pages import Made, render, two_places
from flows.sunburst import sunburst
from schemas.hashing import child_id
from storage.artifacts import Store
from storage.dataset_folder import Dataset, Kind, Table
from storage.publish import read_frame
from storage.publish_multifaceted import ABOUT, aligned_rows, bench_rows, reward_rows, sft_rows
from tasks.coverage import coverage
from tasks.diversity import spread
from tasks.embeddings import embed
from tasks.judgements import note_unread
from tasks.judging import BenchResult, bench_results
from tasks.preference_sets import PreferenceSets

SYSTEMS_COMPARED = 20_000


def multifaceted_dataset(store: Store, made: Made, drawn: PreferenceSets, embedder: str) -> Dataset:
    """The splits, and the card's tables and picture."""
    variants = read_frame(store, made["variants"])
    pairs = read_frame(store, made["aligned_pairs"])
    bench, unseen = pl.DataFrame(), pl.Series([], dtype=pl.String)
    if "rubrics" in made:
        bench, unseen = bench_rows(read_frame(store, made["rubrics"])), read_frame(store, made["bench_variants"])["id"]
    aligned_to = [child_id(*one) for one in pairs.select("parent_id", "chosen_index").iter_rows()]
    tests = pairs.filter(pl.Series(aligned_to, dtype=pl.String).is_in(unseen.implode()))
    splits: dict[str, tuple[Kind, dict[str, pl.DataFrame]]] = {
        "sft": ("conversations", {"train": sft_rows(variants)}),
        "small": ("conversations", {"train": sft_rows(variants, picked=True)}),
        "preference": ("preferences", {"train": aligned_rows(pairs)}),
        "rm": (
            "other",
            {"train": reward_rows(pairs.filter(pl.col("split") == "train")), "test": reward_rows(tests)},
        ),
        "bench": ("other", {"test": bench}),
    }
    values = value_table(variants)
    picture = sunburst(value_tree(values), "The values in this dataset", (f"{values.height:,}", "values"))
    return Dataset(
        "Multifaceted preference data",
        f"Instructions, each under {drawn.count} system messages that stand for {drawn.count} people's values.",
        {name: Table(rows, kind, ABOUT[name]) for name, (kind, rows) in splits.items()},
        render("multifaceted.md", **figures(store, made, drawn, embedder), picture="values.svg"),
        {"values.svg": picture.encode()},
    )


def figures(store: Store, made: Made, drawn: PreferenceSets, embedder: str) -> dict[str, Any]:
    """What survived each step, how even the values came out, how different the variants are."""
    values = value_table(read_frame(store, made["variants"], ("split", "preference_set")))
    return {
        "coverage": [
            row | {"split": split}
            for split, side in drawn.sides.items()
            if (mine := values.filter(pl.col("split") == split)).height
            for row in coverage(side, mine.iter_rows(named=True))
        ],
        "diversity": diversity_of(store, made, drawn, embedder),
    }


def value_table(variants: pl.DataFrame) -> pl.DataFrame:
    """One row per value that a variant has, with its split."""
    return variants.select("split", "preference_set").explode("preference_set").unnest("preference_set")


def value_tree(values: pl.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """dimension -> subdimension -> value -> how often; dimensions in the taxonomy's order."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    names = ["dimension", "subdimension", "preference"]
    for dimension, subdimension, preference, count in values.group_by(names, maintain_order=True).len().iter_rows():
        tree.setdefault(dimension, {}).setdefault(subdimension, {})[preference] = count
    return tree


def diversity_of(store: Store, made: Made, drawn: PreferenceSets, embedder: str) -> dict[str, Any]:
    """Means over instructions of what the stage `diversity` measured, and the spread of all system messages."""
    columns = ("description_rouge_l", "most_alike", "alike", "system_spread", "response_rouge_l", "systems")
    frame = read_frame(store, made["diversity"], columns)
    systems = frame["systems"].explode(empty_as_null=False).head(SYSTEMS_COMPARED).to_list()
    by_dimension = {
        dimension.name: frame["description_rouge_l"].list.get(place).mean()
        for place, dimension in enumerate(drawn.taxonomy.dimensions)
    }
    return {
        "description_rouge_l": by_dimension,
        "alike": frame["alike"].mean(),
        "system_spread": frame["system_spread"].mean(),
        "system_spread_overall": spread(embed(embedder, systems, store.root)),
        "response_rouge_l": frame["response_rouge_l"].mean(),
    }


def scores_dataset(store: Store, made: Made) -> Dataset:
    """The judged rows, and a card with the model's scores."""
    rows = read_frame(store, made["bench_scores"])
    results = [shown(result) for result in bench_results(rows)]
    return Dataset(
        "Scores on a multifaceted bench",
        "Answers of one model to a bench of values, each judged by its rubric.",
        {"scores": Table.of(rows, "other", "a bench row with the model's answers, scores and feedback, run by run")},
        render("scores.md", rows=rows.height, results=results, unread=note_unread(store, made["judged"])),
    )


def shown(result: BenchResult) -> dict[str, str]:
    return {
        "name": result.name,
        "score": two_places(result.score),
        "spread": two_places(result.spread),
        "runs": ", ".join(map(two_places, result.runs)),
        "missing": f"{result.missing:,}",
    }
