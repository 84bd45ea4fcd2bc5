"""Queries for real conversations: how each form does by BM25, by MiniLM and fused, what picks and pairs they give, and
whether queries that a model writes beat the question as it was asked.

    python -m bench.rewrites --real DIR [--domains clapnq fiqa] [--store FOLDER] [--engine SPEC --turns 100]

DIR holds MTRAG: tasks.jsonl.gz, candidate_queries.jsonl.gz, qrels.tsv, corpus_DOMAIN.jsonl.gz. With --engine,
`synthmill run retpo` is run on --turns turns with a history, drawn by hash.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import yaml

from synthmill.flows.making.plan import chain
from synthmill.flows.methods.retpo import plan as plan_retpo
from synthmill.flows.methods.retpo.dataset import all_queries
from synthmill.flows.methods.retpo.search import plan_search
from synthmill.flows.methods.retpo.settings import RetpoSettings
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.turns import queries_kind
from synthmill.storage.published.rows import read_frame
from synthmill.tasks.retrieval.comparisons import MinedNegatives, ParetoPairs, QueryPairs, QueryPicks
from synthmill.tasks.retrieval.metrics import ANY, disagreement, evaluation, form_name, totals
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.stages import ingest, run_stage

DEPTH = 100
RETRIEVERS = ("bm25", "dense", "fusion")
POOLED = ("clapnq", "fiqa")  # govt has little more than its gold passages: too easy to say anything of a model
SHOWN = ("R@10", "MRR@10", "nDCG@10", "R@100")
HEAD = (
    "| domain | retriever | form | queries | R@10 | MRR@10 | nDCG@10 | R@100 |\n|---|---|---|---:|---:|---:|---:|---:|"
)


def make_domain(store: Store, real: Path, domain: str) -> dict[str, Manifest]:
    """The candidates that MTRAG has for a domain, ranked by every retriever, with picks, pairs and negatives."""
    retrievers = [RetrieverSettings.model_validate(name) for name in RETRIEVERS]
    corpus = CorpusSettings(path=str(real / f"corpus_{domain}.jsonl.gz"))
    search = plan_search(store, corpus, retrievers, DEPTH)
    rows = [line.fields or {} for line in lines_of(str(real / "candidate_queries.jsonl.gz"))]
    place = store.root / f"{domain}.jsonl"
    place.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows if row["domain"] == domain))
    kind = queries_kind(str(real / "qrels.tsv"))
    source = ingest(store, TurnSettings(path=str(place)), 256, "bench", kind)
    by_key = {source.key: source, search.corpus.key: search.corpus.ingest("bench")}
    rank_steps = chain({}, source.key, search.places, *search.ranks)
    stages = [QueryPicks(), QueryPairs(), ParetoPairs(), MinedNegatives(passages=search.corpus.key)]
    sides = [step for stage in stages for step in chain({}, rank_steps[-1].key, stage)]
    manifests: dict[str, Manifest] = {}
    pool = InProcess(store, "bench", threading.Event())
    for step in [*search.indexes, *rank_steps, *sides]:
        manifests[step.stage.name] = by_key[step.key] = run_stage(store, step, by_key[step.source_key], pool, "bench")
        print(f"{domain}: {step.stage.name}", file=sys.stderr, flush=True)
    pool.close()
    return manifests


def print_forms(domain: str, queries: pl.DataFrame) -> None:
    for row in evaluation([totals(queries)]):
        if not row["group"] and (row["form"], row["choice"]) != (ANY, "first"):
            numbers = " | ".join(f"{row[name]:.3f}" for name in SHOWN)
            print(f"| {domain} | {row['retriever']} | {form_name(row)} | {row['queries']} | {numbers} |")


def print_comparisons(store: Store, domain: str, manifests: dict[str, Manifest], queries: pl.DataFrame) -> None:
    """A row per retriever: what its ranks give, and how the best query stands to the human's."""
    picks, pairs = read_frame(store, manifests["query_picks"]), read_frame(store, manifests["query_pairs"])
    all_negatives = read_frame(store, manifests["hard_negatives"])
    pareto = read_frame(store, manifests["pareto_pairs"]).height
    for retriever in RETRIEVERS:
        ranks = queries.filter(pl.col("retriever") == retriever)
        human = ranks.filter(pl.col("methods").list.contains("human_rewrite")).select("id", human="rank")
        best = ranks.group_by("id").agg(pl.col("rank").min().alias("best")).join(human, on="id")
        better_share = best.select((pl.col("best") < pl.col("human")).mean()).item()
        own_picks, own_pairs = (frame.filter(pl.col("retriever") == retriever) for frame in (picks, pairs))
        negatives = all_negatives.filter(pl.col("retriever") == retriever).height
        found_by_any = (best["best"] <= DEPTH).mean()
        print(
            f"| {domain} | {retriever} | {best.height} | {better_share:.0%} | {found_by_any:.0%} | "
            f"{own_picks.height:,} | {own_picks['rank'].median():.0f} | {own_pairs.height:,} | "
            f"{own_pairs['agreement'].mean():+.2f} | {negatives:,} | {pareto:,} |"
        )


def run_retpo(options: argparse.Namespace, folder: Path, domain: str, rows: Sequence[dict[str, Any]]) -> None:
    """Run the flow on turns of one domain; how the queries that the model wrote do."""
    source = folder / f"{domain}-turns.jsonl"
    source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    settings = {
        "source": str(source),
        "corpus": str(options.real / f"corpus_{domain}.jsonl.gz"),
        "store": str(folder),
        "engines": {"teacher": {"spec": options.engine, "options": yaml.safe_load(options.options)}},
        "retrievers": list(RETRIEVERS),
        "candidates": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 500, "attempts": 2, "human_base": False},
        "workers": 0,
    }
    config = folder / f"{domain}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "synthmill.flows.cli", "run", "retpo", "--config", str(config)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    plan = plan_retpo(RetpoSettings.model_validate(settings))
    manifests = plan.made()
    assert manifests is not None
    queries = all_queries(plan.store, manifests["fusion_ranks"], DEPTH)
    by_model = pl.col("methods").list.set_intersection(pl.lit(["rewrite", "plan", "expand"])).list.len() > 0
    queries = queries.with_columns(
        methods=pl.when(by_model)
        .then(pl.concat_list("methods", pl.lit(["any the model wrote"])))
        .otherwise(pl.col("methods"))
    )
    picks = read_frame(plan.store, manifests["query_picks"]).select("retriever", "query", id=pl.col("parent_id"))
    picked = queries.filter(by_model).join(picks, on=["id", "retriever", "query"])
    means = picked.group_by("retriever", "id").agg(pl.col(SHOWN).mean())
    print_forms(domain, queries)
    for retriever in RETRIEVERS:
        own = means.filter(pl.col("retriever") == retriever)
        numbers = " | ".join(f"{own[name].mean():.3f}" for name in SHOWN)
        print(f"| {domain} | {retriever} | picks that the model wrote, mean | {own.height} | {numbers} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--domains", nargs="*", default=["clapnq", "fiqa"])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--engine", default="")
    parser.add_argument("--options", default="{}", help="of the engine, as YAML")
    parser.add_argument("--turns", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.store or Path(place)
        store = Store(folder)
        store.prepare()
        manifests = {domain: make_domain(store, options.real, domain) for domain in options.domains}
        queries = {domain: all_queries(store, stages["fusion_ranks"], DEPTH) for domain, stages in manifests.items()}
        print(f"**MTRAG's own queries**\n\n{HEAD}")
        for domain, frame in queries.items():
            print_forms(domain, frame)
        print("\n**What they give**\n")
        print(
            "| domain | retriever | turns | best beats human | found by any | picks | their median rank | pairs | "
            "agreement | hard negatives | Pareto pairs of all |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        )
        for domain, frame in queries.items():
            print_comparisons(store, domain, manifests[domain], frame)
        print("\n**Where retrievers disagree**\n\n| domain | | | pairs | the other way round | another best query |")
        print("|---|---|---|---:|---:|---:|")
        for domain, frame in queries.items():
            for row in disagreement(frame):
                shares = f"{row['against']:.0%} | {row['best_differs']:.0%}"
                print(f"| {domain} | {row['one']} | {row['other']} | {row['pairs']:,} | {shares} |")
        if options.engine:
            turns = [line.fields or {} for line in lines_of(str(options.real / "tasks.jsonl.gz"))]
            turns = [row for row in turns if row["gold"] and row["history"] and row["domain"] in POOLED]
            turns.sort(key=lambda row: blake2b(row["task_id"].encode()).hexdigest())
            print(f"\n**Queries that a model wrote**\n\n{HEAD}")
            for domain in POOLED:
                run_retpo(options, folder, domain, [row for row in turns[: options.turns] if row["domain"] == domain])


if __name__ == "__main__":
    main()
