"""What `retpo` publishes: its rows, and the table of every form of query for the card."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import polars as pl

from synthmill.flows.methods.retpo.rows import answer_rows, pair_rows, pick_rows, triplet_rows
from synthmill.flows.methods.retpo.settings import RetpoSettings
from synthmill.flows.pages.templates import Manifests, render
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.retpo import KeywordMethod, Method
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.provenance import public_engine, public_path, strip_private
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.retrieval.http_ranks import HttpRetrieverSettings
from synthmill.tasks.retrieval.indexes import own_passages
from synthmill.tasks.retrieval.metrics import (
    MEASURES,
    decimals,
    disagreement,
    evaluation,
    form_name,
    scored_queries,
    totals,
    turn_types,
)
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from synthmill.tasks.retrieval.run_ranks import RunSettings, read_run, run_names

CHECKED = (RunSettings, HttpRetrieverSettings)  # retrievers that may know other names than the corpus and the turns
FOLDER = Path(__file__).parent
FORM, SHOWN = ("retriever", "form", "queries"), ("MRR", "nDCG@3", "R@10", "R@100")
DISAGREEMENT = ("retriever", "and", "pairs", "the other way round", "another best query")
PICK = "a conversation and one of its best queries by this retriever"
PAIR = "a query over one with which this retriever finds the passage later; `agreement`: what the other retrievers say"
PARETO = "a query over another, by which every retriever does as well or better, and one better"
ANSWER = "a conversation and its reference answer: the SFT step before the others"
TRIPLET = (
    "`anchor`, `positive`, `negative`: query, gold passage, a passage that a worse query brought above it; "
    "`select_columns` these for sentence-transformers, or export the format `triplets`"
)


def retpo_dataset(store: Store, manifests: Manifests, settings: RetpoSettings, ranked: str) -> Dataset:
    """sft, dpo and hard negatives per retriever, what all agree on, answers, and every query with its ranks; ranked:
    the stage that has all rankings.
    """
    instruction = settings.instruction
    picks, pairs = stream_of(store, manifests["query_picks"]), stream_of(store, manifests["query_pairs"])
    negatives = stream_of(store, manifests["hard_negatives"]) if "hard_negatives" in manifests else None
    as_pairs, as_picks = partial(pair_rows, instruction=instruction), partial(pick_rows, instruction=instruction)
    tables: dict[str, Table] = {}
    for retriever in (retriever_settings.label for retriever_settings in settings.retrievers):
        of_retriever = pl.col("retriever") == retriever
        tables[f"sft_{retriever}"] = Table.of(picks.filter(of_retriever).map(as_picks), "completions", PICK)
        tables[f"dpo_{retriever}"] = Table.of(pairs.filter(of_retriever).map(as_pairs), "preferences", PAIR)
        if negatives is not None:
            triplets = negatives.filter(of_retriever).map(triplet_rows)
            tables[f"hard_negatives_{retriever}"] = Table.of(triplets, "triplets", TRIPLET)
    if "pareto_pairs" in manifests:
        tables["dpo_pareto"] = Table.of(
            stream_of(store, manifests["pareto_pairs"]).map(as_pairs), "preferences", PARETO
        )
    queries = all_queries(store, manifests[ranked], settings.depth)
    incomplete = check_found(settings.retrievers, queries, settings.depth)
    answers = stream_of(store, manifests["gold_places"]).filter(pl.col("answer").is_not_null()).map(answer_rows)
    tables["sft_answers"] = Table.of(answers, "completions", ANSWER)
    tables["queries"] = Table.of(queries, "other", "every query of every turn with its ranks and measures")
    missed = picks.filter(pl.col("rank") > settings.depth).height
    card: dict[str, Any] = {"measures": MEASURES, "settings": settings, "models": models(manifests), "missed": missed}
    own = own_passages(
        store.root, manifests["passages"].key, stream_of(store, manifests["gold_places"]).frame(["id"])["id"]
    )
    notes = [note_own(own, bool(settings.ignore_identical_ids)), *note_ties(settings.retrievers)]
    card["retrievers"] = {
        retriever_settings.label: strip_private(retriever_settings.model_dump(mode="json", exclude_defaults=True))
        for retriever_settings in settings.retrievers
    }
    comparison = compare_forms(queries)
    return Dataset(
        "Retriever-feedback rewrites",
        "Rows that teach a query rewriter what a retriever likes.",
        tables,
        render("retpo.md", FOLDER, **card, **comparison, decimals=decimals, form_name=form_name),
        notes=[*incomplete, *filter(None, notes)],
        figures=figures_of(comparison),
    )


def figures_of(comparison: Mapping[str, Any]) -> list[Figure]:
    """How each form of query does, and where the retrievers disagree."""
    forms = [row for row in comparison["evaluation"] if not row["group"]]
    rows = [
        (row["retriever"], form_name(row), f"{row['queries']:,}", *(decimals(row[name]) for name in SHOWN))
        for row in forms
    ]
    figures = [Figure("What the retrievers make of the queries", (*FORM, *SHOWN), tuple(rows), text_columns=2)]
    pairs = [
        (row["one"], row["other"], f"{row['pairs']:,}", percent(row["against"]), percent(row["best_differs"]))
        for row in comparison["disagreement"]
    ]
    if pairs:
        about = "Of the pairs of a turn's queries that both rank differently, the share that they order the other way."
        figures.append(Figure("How far they disagree", DISAGREEMENT, tuple(pairs), text_columns=2, about=about))
    return figures


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def check_found(retrievers: Sequence[RetrieverSettings], queries: pl.DataFrame, depth: int) -> list[str]:
    """What to say of runs that lack queries; queries: id, retriever, number, query, rank.

    Raises InputError for a run without any of the queries, and for an endpoint that finds nothing at all.
    """
    notes = []
    for retriever in retrievers:
        rows = queries.filter(pl.col("retriever") == retriever.label).select("id", "number", "query", "rank").rows()
        if isinstance(retriever, RunSettings):
            run_queries = read_run(retriever.file)[0]
            matches = sum(any(name in run_queries for name in run_names(*row[:3])) for row in rows)
            if not matches:
                expected = " or ".join(run_names(*rows[0][:3]))
                raise InputError(
                    f"{retriever.path} has none of the {len(rows)} queries; expected names such as {expected}"
                )
            if matches < len(rows):
                name = public_path(str(retriever.path))
                notes.append(f"{name} has {matches:,} of {len(rows):,} queries; the others count as missed")
        if isinstance(retriever, HttpRetrieverSettings) and all(row[3] > depth for row in rows):
            raise InputError(
                f"{retriever.url} finds no gold passage for any query; expected passages called as in the corpus"
            )
    return notes


def note_own(turns: int, ignored: bool) -> str:
    """What to say of turns with a passage of their own id; empty where there are none."""
    if not turns:
        return ""
    what = f"{turns:,} {'query has a passage of its' if turns == 1 else 'queries have a passage of their'} own id: "
    if ignored:
        return what + "it is left out of their ranks, as BEIR's evaluation does (ignore_identical_ids)"
    return what + "it is ranked as any other; with ignore_identical_ids it is left out, as BEIR's evaluation does"


def note_ties(retrievers: Sequence[RetrieverSettings]) -> list[str]:
    """How each run's equal scores are ordered."""
    order = {"rank": "in the order of its rank column", "trec_eval": "as trec_eval has them, ids from z to a"}
    return [
        f"{retriever.label}: equal scores stand {order[retriever.ties]} (ties: {retriever.ties})"
        for retriever in retrievers
        if isinstance(retriever, RunSettings)
    ]


def models(manifests: Manifests) -> str:
    """Who wrote the queries, by name and weights."""
    return ", ".join(
        sorted({public_engine(str(name)) for name in manifests["candidates"].identity["engines"].values()})
    )


def all_queries(store: Store, manifest: Manifest, depth: int) -> pl.DataFrame:
    """Every query of an artifact with rankings, and its measures."""
    return pl.concat([scored_queries(batch, depth) for batch in stream_of(store, manifest).batches() if batch.height])


def compare_forms(queries: pl.DataFrame) -> dict[str, Any]:
    """The tables: forms of the turns that were rewritten, where retrievers disagree."""
    queries = turn_types(queries)  # before first turns go: the second ones are compared with them
    generated = queries.filter(pl.col("id").is_in(rewritten(queries).implode()))
    queries = generated if generated.height else queries
    return {
        "evaluation": evaluation([totals(queries)]),
        "disagreement": disagreement(queries),
    }


def rewritten(queries: pl.DataFrame) -> pl.Series:
    """The ids of turns with a query that a model wrote: the others would make forms incomparable."""
    by_models = pl.lit([*get_args(Method), *get_args(KeywordMethod)])
    written = pl.col("methods").list.set_intersection(by_models).list.len() > 0
    return queries.filter(written)["id"].unique()
