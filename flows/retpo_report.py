"""What `retpo` leaves beside its rows: a card with the table of every form of query."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flows.report import funnel, render
from schemas.artifacts import Manifest
from schemas.errors import InputError
from schemas.retpo_settings import RetpoSettings, RetrieverSettings
from storage.artifacts import Store, read_part
from storage.publish import Splits, comparisons, read_frame, write_configs
from storage.publish_retpo import answer_rows, pair_rows, pick_rows, triplet_rows
from tasks.retrieval_metrics import MEASURES, disagreement, evaluation, scored_queries, totals, turn_types
from tasks.retrievers import read_run, run_names

Made = Mapping[str, Manifest]
CHECKED = ("run", "http")  # retrievers that may know other names than the corpus and the turns
STAGES = ("turns", "gold_places", "candidates", "query_picks", "query_pairs", "pareto_pairs", "hard_negatives")


def write_retpo(store: Store, made: Made, folder: Path, settings: RetpoSettings, ranked: str) -> int:
    """Write sft, dpo and hard negatives per retriever, what all agree on, answers, and every query with its ranks, then
    the card; ranked: the stage that has all rankings. Returns all rows.
    """
    instruction = settings.instruction
    picks, pairs = read_frame(store, made["query_picks"]), read_frame(store, made["query_pairs"])
    mined = read_frame(store, made["hard_negatives"]) if "hard_negatives" in made else None
    configs: dict[str, Splits] = {}
    for retriever in (one.label for one in settings.retrievers):
        mine = pl.col("retriever") == retriever
        configs[f"sft_{retriever}"] = pick_rows(picks.filter(mine), instruction)
        configs[f"dpo_{retriever}"] = pair_rows(pairs.filter(mine), instruction)
        if mined is not None:
            configs[f"hard_negatives_{retriever}"] = triplet_rows(mined.filter(mine))
    if "pareto_pairs" in made:
        configs["dpo_pareto"] = pair_rows(read_frame(store, made["pareto_pairs"]), instruction)
    queries = all_queries(store, made[ranked], settings.depth)
    check_found(settings.retrievers, queries, settings.depth)
    configs["sft_answers"] = answer_rows(read_frame(store, made["gold_places"]))
    configs["queries"] = queries
    counts = {name: frame.height for name, frame in configs.items() if isinstance(frame, pl.DataFrame)}
    told = {"counts": counts, "measures": MEASURES, "settings": settings, "models": models(made)}
    missed = picks.filter(pl.col("rank") > settings.depth).height
    card = render("retpo.md", **told, **figures(queries, made), missed=missed)
    return write_configs(folder, configs, card + comparisons(store, made))


def check_found(retrievers: Sequence[RetrieverSettings], queries: pl.DataFrame, depth: int) -> list[str]:
    """What to say of runs that lack queries; queries: id, retriever, number, query, rank.

    Raises InputError for a run without any of the queries, and for an endpoint that finds nothing at all.
    """
    told = []
    for one in retrievers:
        mine = queries.filter(pl.col("retriever") == one.label).select("id", "number", "query", "rank").rows()
        if one.kind == "run":
            known = read_run(Path(one.path).expanduser())[0]
            there = sum(any(name in known for name in run_names(*row[:3])) for row in mine)
            if not there:
                expected = " or ".join(run_names(*mine[0][:3]))
                raise InputError(f"{one.path} has none of the {len(mine)} queries; expected names such as {expected}")
            if there < len(mine):
                told.append(f"{one.path} has {there:,} of {len(mine):,} queries; the others count as missed")
        if one.kind == "http" and all(row[3] > depth for row in mine):
            raise InputError(
                f"{one.url} finds no gold passage for any query; expected passages called as in the corpus"
            )
    return told


def models(made: Made) -> str:
    """Who wrote the queries, by name and weights."""
    return ", ".join(sorted({str(name) for name in made["candidates"].identity["engines"].values()}))


def all_queries(store: Store, manifest: Manifest, depth: int) -> pl.DataFrame:
    """Every query of an artifact with rankings, and its measures, part by part."""
    parts = (pl.DataFrame(read_part(store, seal)) for seal in manifest.parts if seal.rows)
    return pl.concat([scored_queries(part, depth) for part in parts])


def figures(queries: pl.DataFrame, made: Made) -> dict[str, Any]:
    """The tables: forms of the turns that were rewritten, where retrievers disagree, the funnel."""
    queries = turn_types(queries)  # before first turns go: the second ones are compared with them
    generated = queries.filter(pl.col("id").is_in(rewritten(queries).implode()))
    queries = generated if generated.height else queries
    return {
        "evaluation": evaluation([totals(queries)]),
        "disagreement": disagreement(queries),
        "funnel": funnel(made, STAGES),
    }


def rewritten(queries: pl.DataFrame) -> pl.Series:
    """The ids of turns with a query that a model wrote: the others would make forms incomparable."""
    written = pl.col("methods").list.set_intersection(pl.lit(["rewrite", "plan", "expand"])).list.len() > 0
    return queries.filter(written)["id"].unique()
