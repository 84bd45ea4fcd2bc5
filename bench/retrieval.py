"""Searching a corpus: BM25 against bm25s called bare, dense against faiss called bare, in turn on the same threads; and
`synthmill rank` on many queries.

    python -m bench.retrieval [--corpus FILE ... --queries FILE --qrels FILE] [--rank 410000] [--repeats 5]

Without files, 26,000 passages and 3,000 queries of made-up words (Zipf's law, 140 and 36 words on average). Each
measurement is a process of its own; building an index includes splitting texts into words, searching includes the
queries' words. Dense vectors are random, 384 dimensions: values change nothing about the time.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.plain_files.rows import read_chunks
from synthmill.storage.plain_files.turns import PASSAGES, queries_kind

DEPTH, DIMENSIONS, DENSE_QUERIES = 100, 384, 1024


def make_up_texts(count: int, mean: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    words = np.array([f"w{n:x}" for n in range(60_000)])
    chance = 1 / (10 + np.arange(len(words)))
    picked = draw.choice(len(words), count * mean, p=chance / chance.sum())
    ends = np.cumsum(draw.integers(mean // 2, mean + mean // 2, count)).clip(max=len(picked))
    return [" ".join(words[part]) for part in np.split(picked, ends)[:count]]


def read_texts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(passages, queries) of files, or made up."""
    if not options.corpus:
        return make_up_texts(26_000, 140, 0), make_up_texts(3_000, 36, 1)
    chunks = (chunk for path in options.corpus for chunk in read_chunks(CorpusSettings(path=path), 4096, PASSAGES))
    passages = [row.indexed for chunk in chunks for row in chunk.rows]
    turns = read_chunks(TurnSettings(path=options.queries), 4096, queries_kind(options.qrels))
    queries = [candidate.query for chunk in turns for row in chunk.rows for candidate in row.candidates]
    return passages, list(dict.fromkeys(queries))


def bm25_ours(passages: list[str], queries: list[str], threads: int, folder: Path) -> dict[str, float]:
    from synthmill.tasks.retrieval.bm25 import Bm25, Words, build_bm25

    words = Words("en", "english")
    built = seconds_of(lambda: build_bm25(passages, folder, k1=1.2, b=0.75, words=words))
    index = Bm25(folder, Words("en", "english"))
    index.search(queries[:10], DEPTH)  # compiles, or loads what was compiled
    return {"build": built, "search": len(queries) / seconds_of(lambda: index.search(queries, DEPTH))}


def bm25_bare(passages: list[str], queries: list[str], threads: int, folder: Path) -> dict[str, float]:
    import bm25s
    import Stemmer

    def words(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)

    def search(texts: list[str]) -> Any:
        options = {"show_progress": False, "n_threads": threads, "backend_selection": "numba"}
        return index.retrieve(words(texts), k=DEPTH, **options)

    index = bm25s.BM25(k1=1.2, b=0.75, backend="numba")
    index.index(words(passages[:100]), show_progress=False)  # compiles
    index = bm25s.BM25(k1=1.2, b=0.75, backend="numba")
    built = seconds_of(lambda: (index.index(words(passages), show_progress=False), index.save(folder)))
    search(queries[:10])
    return {"build": built, "search": len(queries) / seconds_of(lambda: search(queries))}


def dense_ours(passages: list[str], queries: list[str], threads: int, folder: Path) -> dict[str, float]:
    from synthmill.tasks.retrieval.dense import Dense, build_dense

    vectors, query_vectors = unit(len(passages), 0), unit(DENSE_QUERIES, 1)
    built = seconds_of(lambda: build_dense(iter([vectors]), len(vectors), DIMENSIONS, folder, "flat"))
    index = Dense(folder, "", "", folder)
    index.find(query_vectors[:10], DEPTH)
    return {"build": built, "search": len(query_vectors) / seconds_of(lambda: index.find(query_vectors, DEPTH))}


def dense_bare(passages: list[str], queries: list[str], threads: int, folder: Path) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors, query_vectors = unit(len(passages), 0), unit(DENSE_QUERIES, 1)
    index = faiss.IndexFlatIP(DIMENSIONS)
    built = seconds_of(lambda: (index.add(vectors), faiss.write_index(index, str(folder / "index.faiss"))))
    index.search(query_vectors[:10], DEPTH)
    return {"build": built, "search": len(query_vectors) / seconds_of(lambda: index.search(query_vectors, DEPTH))}


KINDS = {"BM25": (bm25_ours, bm25_bare), "dense": (dense_ours, dense_bare)}


def unit(count: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(work: Callable[..., dict[str, float]], texts: Any, threads: int) -> dict[str, float]:
    """Run in a process of its own; peak memory is beside the texts'."""
    import os

    os.environ["OMP_NUM_THREADS"] = str(threads)
    passages, queries = texts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        measures = work(passages, queries, threads, Path(folder))
    return {**measures, "peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def compare(texts: Any, threads: int, repeats: int) -> None:
    """A row per kind: ours, bare, and their ratio, medians of runs in turn."""
    context = multiprocessing.get_context("spawn")
    for kind, works in KINDS.items():
        runs_by_side: list[list[dict[str, float]]] = [[], []]
        for _ in range(repeats):
            for n, work in enumerate(works):
                pool = context.Pool(1)
                runs_by_side[n].append(pool.apply(measure, (work, texts, threads)))
                pool.close()
                pool.join()
        ours, bare = ({key: statistics.median(run[key] for run in runs) for key in runs[0]} for runs in runs_by_side)
        ratio = statistics.median(a["search"] / b["search"] for a, b in zip(*runs_by_side, strict=True))
        print(
            f"| {kind}, {threads} thread{'s' * (threads > 1)} | {ours['search']:,.0f} | {bare['search']:,.0f} | "
            f"{ratio:.2f} | {ours['build']:.2f} | {bare['build']:.2f} | {ours['peak']:.0f} | {bare['peak']:.0f} |",
            flush=True,
        )


def rank_many(texts: Any, count: int) -> None:
    """`synthmill rank` on so many queries: the given ones over and over, each time with a word that no passage has,
    so that none is the same.
    """
    passages, queries = texts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "corpus.jsonl", ({"_id": f"p{n}", "text": text} for n, text in enumerate(passages)))
        rows = (
            {
                "id": f"q{n}",
                "query": f"{queries[n % len(queries)]} zq{n // len(queries)}",
                "gold": [f"p{n % len(passages)}"],
            }
            for n in range(count)
        )
        write(folder / "queries.jsonl", rows)
        command = [
            sys.executable,
            "-m",
            "synthmill.flows.cli",
            "rank",
            "--queries",
            str(folder / "queries.jsonl"),
            "--json",
        ]
        command += ["--corpus", str(folder / "corpus.jsonl"), "--store", str(folder / "store")]
        command += ["--out", str(folder / "out.parquet")]
        started = time.perf_counter()
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        seconds = time.perf_counter() - started
        seconds_again = seconds_of(lambda: subprocess.run(command, check=True, capture_output=True))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        assert json.loads(output)["queries"] == count
    print(
        f"\n`synthmill rank` on {count:,} queries (BM25, depth {DEPTH}): {seconds:.0f} s, "
        f"{count / seconds:,.0f} queries/s from reading the file to the table, "
        f"peak memory {peak:,.0f} MiB; the same command again: {seconds_again:.0f} s."
    )


def write(path: Path, rows: Any) -> None:
    with path.open("wb") as file:
        while chunk := b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in islice(rows, 4096)):
            file.write(chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", default=[])
    parser.add_argument("--queries", default="")
    parser.add_argument("--qrels", default="")
    parser.add_argument("--rank", type=int, default=410_000, help="queries for `synthmill rank`; 0: leave it out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    texts = read_texts(options)
    print(
        f"{len(texts[0]):,} passages, {len(texts[1]):,} queries, top {DEPTH}; "
        f"medians of {options.repeats} runs in turn.\n"
    )
    print("| | queries/s, ours | bare | ratio | index s, ours | bare | MiB over the texts, ours | bare |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for threads in options.threads:
        compare(texts, threads, options.repeats)
    if options.rank:
        rank_many(texts, options.rank)


if __name__ == "__main__":
    main()
