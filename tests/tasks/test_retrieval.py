"""Retrievers find exactly what they should, in one order; indexes are made once, and again when they are damaged."""

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.flows.making.plan import chain
from synthmill.flows.methods.retpo.dataset import check_found
from synthmill.flows.methods.retpo.search import plan_search
from synthmill.schemas.errors import EngineError, EngineRefused, InputError
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.plain_files.turns import queries_kind
from synthmill.tasks import posting
from synthmill.tasks.cores import threads
from synthmill.tasks.retrieval import http_ranks
from synthmill.tasks.retrieval.bm25 import Bm25, Hits, Words, build_bm25
from synthmill.tasks.retrieval.comparisons import MinedNegatives
from synthmill.tasks.retrieval.dense import Dense, build_dense, in_order, resolve_kind, top_by_product
from synthmill.tasks.retrieval.fusion_ranks import fuse_hits
from synthmill.tasks.retrieval.http_ranks import HttpSearch
from synthmill.tasks.retrieval.metrics import scored_queries
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from synthmill.tasks.retrieval.run_ranks import read_run, run_names
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.stages import ingest, run_stage
from tests.conftest import write_jsonl

WORDS = ["river", "mill", "bird", "circle", "seven", "stone", "bridge", "water", "grain", "wheel"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=3, max_size=40)


@settings(max_examples=40)
@given(TEXTS, TEXTS, st.integers(1, 12))
def test_bm25_is_exact_and_ties_stand_in_the_order_of_the_corpus(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[str], queries: list[str], depth: int
) -> None:
    folder = tmp_path_factory.mktemp("bm25")
    build_bm25(corpus, folder, k1=1.2, b=0.75, words=Words("en", "english"))
    index = Bm25(folder, Words("en", "english"))
    hits = index.search([*queries, "", "nothing known"], depth)
    data, indices, indptr = index._arrays
    for query, places, scores in zip(queries, hits.places, hits.scores, strict=False):
        sums = np.zeros(len(corpus), np.float32)
        for word in index.words.of(query):
            if word in index._number:
                at = slice(indptr[index._number[word]], indptr[index._number[word] + 1])
                sums[indices[at]] += data[at]
        order = [place for place in np.lexsort((np.arange(len(corpus)), -sums)) if sums[place] > 0][:depth]
        assert places[: len(order)].tolist() == order
        assert scores[: len(order)].tolist() == sums[order].tolist()
        assert (places[len(order) :] == -1).all()
    assert (hits.places[-2:] == -1).all()


def test_bm25_scores_are_bm25s_own(tmp_path: Path) -> None:
    import bm25s

    draw = np.random.default_rng(0)
    corpus = [" ".join(draw.choice(WORDS, draw.integers(3, 30))) for _ in range(300)]
    build_bm25(corpus, tmp_path, k1=0.9, b=0.4, words=Words("none", "none"))
    hits = Bm25(tmp_path, Words("none", "none")).search(["river bird", "mill mill stone"], 50)
    theirs = bm25s.BM25(k1=0.9, b=0.4)
    theirs.index([text.split() for text in corpus], show_progress=False)
    _, scores = theirs.retrieve([["river", "bird"], ["mill", "mill", "stone"]], k=50, show_progress=False)
    assert hits.scores == pytest.approx(scores, abs=1e-5)


def test_the_same_corpus_gives_the_same_index_whatever_the_hash_seed(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from synthmill.tasks.retrieval.bm25 import *; Path(sys.argv[1]).mkdir();"
        "build_bm25(['seven birds', 'over the mill', 'birds and birds'], Path(sys.argv[1]), k1=1, b=0.5, "
        "words=Words('en', 'english'))"
    )
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    corpus = [" ".join(draw.choice(WORDS, 6)) for _ in range(200)]
    build_bm25(corpus, tmp_path, k1=1.2, b=0.75, words=Words("en", "english"))
    index, found = Bm25(tmp_path, Words("en", "english")), []
    for count in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        assert threads() == int(count)
        found.append(index.search(corpus[:50], 20))
    assert (found[0].places == found[1].places).all()


def test_unknown_word_lists_and_stemmers_are_named() -> None:
    with pytest.raises(InputError, match="no stop word list 'klingon'"):
        Words("klingon", "none")
    with pytest.raises(InputError, match="no stemmer 'klingon'; expected none, arabic"):
        Words("none", "klingon")
    assert Words("de", "german").of("Die Häuser der Städte") == ["haus", "stadt"]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_dense_indexes_find_the_nearest(tmp_path: Path, kind: str) -> None:
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(600, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    build_dense(iter(np.split(vectors, 6)), 600, 16, tmp_path, kind)
    hits = Dense(tmp_path, "", "", tmp_path).find(vectors[:40], 10)
    exact = np.argsort(-(vectors[:40] @ vectors.T), axis=1)[:, :10]
    assert hits.places[:, 0].tolist() == list(range(40))
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.places.tolist(), exact.tolist(), strict=True)])
    assert share == 1 if kind == "flat" else share > 0.5
    if kind == "flat":
        scores, places = top_by_product(vectors[:40], __import__("torch").from_numpy(vectors), 10)
        assert (places == exact).all()
        assert scores == pytest.approx(hits.scores, abs=1e-5)


def test_equal_scores_and_missing_hits_of_a_dense_index() -> None:
    places, scores = np.array([[5, 3, 9, -1]]), np.array([[0.5, 0.5000001, 0.7, -3]])
    hits = in_order(places, scores, 6)
    assert hits.places.tolist() == [[9, 3, 5, -1, -1, -1]]
    assert hits.scores[0, 3:].tolist() == [0, 0, 0]
    kinds = [resolve_kind(kind, passages) for kind, passages in (("auto", 10), ("auto", 10_000_000), ("hnsw", 10))]
    assert kinds == ["flat", "ivf", "hnsw"]


def test_fusion_by_hand() -> None:
    one = Hits(np.array([[1, 2, 3]], np.int32), np.ones((1, 3), np.float32))
    other = Hits(np.array([[3, 4, -1]], np.int32), np.ones((1, 3), np.float32))
    hits = fuse_hits([one, other], 60)
    assert hits.places.tolist() == [[3, 1, 2]]  # 2 and 4 are equal: the corpus decides
    assert hits.scores[0] == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62])
    empty = Hits(np.full((1, 3), -1, np.int32), np.zeros((1, 3), np.float32))
    assert fuse_hits([empty, empty], 60).places.tolist() == [[-1, -1, -1]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"_id": f"p{n}", "title": WORDS[n], "text": f"the {WORDS[n]} and the {WORDS[-n - 1]}"} for n in range(10)]
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


class Searched:
    """A store with a corpus, where queries are ranked by one retriever after another."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        self.store = Store(folder / "store")
        self.store.prepare()
        self.folder, self.corpus, self.ignore_identical_ids = folder, corpus, False

    def rank(self, *retrievers: Any, depth: int = 5, rows: Any = None) -> pl.DataFrame:
        given = rows or [{"id": f"q{n}", "query": f"{WORDS[n]}", "gold": [f"p{n}"]} for n in range(4)]
        write_jsonl(self.folder / "queries.jsonl", given)
        settings = [RetrieverSettings.model_validate(one) for one in retrievers]
        search = plan_search(
            self.store, CorpusSettings(path=str(self.corpus)), settings, depth, self.ignore_identical_ids
        )
        source = ingest(self.store, TurnSettings(path=str(self.folder / "queries.jsonl")), 3, "test", queries_kind(""))
        by_key = {source.key: source, search.corpus.key: search.corpus.ingest("test")}
        self.keys = {manifest.stage: key for key, manifest in by_key.items()}
        pool = InProcess(self.store, "test", threading.Event())
        try:
            for step in [*search.indexes, *chain({}, source.key, search.places, *search.ranks)]:
                by_key[step.key] = run_stage(self.store, step, by_key[step.source_key], pool, "test")
        finally:
            pool.close()
        self.last = by_key[step.key]
        return pl.DataFrame(read_artifact(self.store, self.last))

    def ranks(self, *retrievers: Any, **given: Any) -> list[list[int]]:
        """Per retriever, the first gold passage's rank of every query's first candidate."""
        rankings = self.rank(*retrievers, **given)["rankings"].to_list()
        return [[row[n]["ranks"][0][0] for row in rankings] for n in range(len(retrievers))]


@pytest.fixture
def searched(tmp_path: Path, corpus: Path) -> Searched:
    return Searched(tmp_path, corpus)


def test_several_retrievers_rank_the_same_queries(searched: Searched, tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text(
        "q0-0 Q0 p9 1 9.0 x\nq0-0 Q0 p0 2 8.0 x\nq1 Q0 elsewhere 1 3 x\nq1 Q0 p1 2 2 x\nq2-0 Q0 p9 1 1 x\n"
    )
    ranks = searched.ranks("bm25", "dense", "fusion", f"run:{tmp_path / 'run.trec'}")
    assert ranks[0] == [1, 1, 1, 1]
    assert ranks[1] == [1, 1, 1, 1]
    assert ranks[2] == [1, 1, 1, 1]
    assert ranks[3] == [2, 2, 6, 6]
    files = sorted(path.name for path in (searched.store.root / "files").glob("*/*/*"))
    assert files.count("vectors.npy") == files.count("vocab.index.json") == 1  # shared by bm25, dense and fusion


def test_an_index_is_made_once_and_again_when_damaged_or_when_a_setting_changes(searched: Searched) -> None:
    searched.rank("bm25")
    [folder] = (searched.store.root / "files" / "bm25_index").iterdir()
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    searched.rank("bm25")
    assert made == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "data.csc.index.npy").write_bytes(b"damaged")
    assert searched.ranks("bm25") == [[1, 1, 1, 1]]
    assert (folder / "data.csc.index.npy").stat().st_mtime_ns > made["data.csc.index.npy"]
    searched.rank({"spec": "bm25", "k1": 0.9})
    assert len(list(folder.parent.iterdir())) == 2
    assert not list(folder.parent.glob(".*"))


def test_gold_that_is_not_in_the_corpus(searched: Searched) -> None:
    rows = [{"id": "a", "query": "river", "gold": ["p0", "gone"]}, {"id": "b", "query": "mill", "gold": ["gone"]}]
    [[row]] = searched.rank("bm25", rows=rows)["rankings"].to_list()
    assert row["ranks"] == [[1, 6]]


def test_a_run_without_any_of_the_queries_is_an_error(searched: Searched, tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text("other Q0 p9 1 9.0 x\n")
    run = RetrieverSettings.model_validate(f"run:{tmp_path / 'run.trec'}")
    queries = scored_queries(searched.rank(run), 5)
    with pytest.raises(InputError, match=r"has none of the 4 queries; expected names such as q0-.* or q0"):
        check_found([run], queries, 5)
    hashed = run_names("q1", 0, WORDS[1])[0]
    (tmp_path / "run.trec").write_text(f"{hashed} Q0 p1 1 1 x\nq0-deadbeef Q0 p0 1 1 x\n")
    assert searched.ranks(run) == [[6, 1, 6, 6]]
    assert check_found([run], queries, 5) == ["run.trec has 1 of 4 queries; the others count as missed"]
    with pytest.raises(InputError, match=r"none\.trec is not there"):
        searched.rank(f"run:{tmp_path / 'none.trec'}")
    (tmp_path / "run.trec").write_text("q0 Q0 p9 first 9.0 x\n")
    with pytest.raises(InputError, match="line 1"):
        read_run(tmp_path / "run.trec")
    (tmp_path / "run.trec").write_text("q Q0 b 2 5 x\n\nq Q0 a 1 5 x\nq Q0 c 3 7 x\nq Q0 b 9 1 x\n")
    queries, starts, passages, places, _ = read_run(tmp_path / "run.trec")
    assert (queries, starts.tolist(), [passages[place] for place in places]) == ({"q": 0}, [0, 3], ["c", "a", "b"])


class Endpoint(ThreadingHTTPServer):
    """A search endpoint that finds p9, then pN for a query that names the n-th word."""

    fails = 0
    answer: Any = None
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        if self.server.fails:
            self.server.fails -= 1
            self.send_error(503)
            return
        found = [[{"id": "p9", "score": 2}, {"id": f"p{WORDS.index(q)}", "score": 1}] for q in body["queries"]]
        said = json.dumps(self.server.answer or {"results": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(posting, "FIRST_WAIT_S", 0.01)
    server = Endpoint(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_an_endpoint_may_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*hits: Any) -> Any:
        return http_ranks.read_results("url", json.dumps({"results": [list(hits)]}).encode(), 1, 3)

    one = {"id": "a", "score": 1}
    assert said(one, {"id": 7, "score": 3}, {"id": "a", "score": 2}) == [[("7", 3.0), ("a", 2.0)]]
    for bad in ({"id": None, "score": 1}, {"id": "a", "score": 1e300}, {"id": "a", "score": "nan"}, {"score": 1}, 5):
        with pytest.raises(EngineRefused, match="another form"):
            said(one, bad)
    with pytest.raises(EngineRefused, match="another form"):
        http_ranks.read_results("url", b"[" * 100_000, 1, 3)

    settings = RetrieverSettings.model_validate({"spec": "http://127.0.0.1:9/x", "api_key_env": "SEARCH_KEY"})
    for value in ("", "schlüssel", "a\nb"):
        monkeypatch.setenv("SEARCH_KEY", value)
        with pytest.raises(InputError, match="SEARCH_KEY holds no key") as told:
            posting.read_api_key(settings.url, settings.api_key_env)
        assert not value or value not in told.value.message
    monkeypatch.setenv("SEARCH_KEY", "secret\n")
    assert posting.read_api_key(settings.url, settings.api_key_env) == "secret"


def test_an_endpoint_that_never_ends_is_given_up(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(posting, "ATTEMPTS", 2)
    monkeypatch.setattr(Handler, "do_POST", drip)
    url = f"http://127.0.0.1:{endpoint.server_port}/search"
    with pytest.raises(EngineError, match=r"no whole answer within|ReadTimeout"):
        HttpSearch(url, "", Path(), "").ask(["river"], 5)


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def test_a_run_that_changes_is_read_again_and_its_numbers_are_the_files(searched: Searched, tmp_path: Path) -> None:
    rows = [{"id": "t", "candidates": {"a": "lion", "b": "lion", "c": "ocean"}, "gold": ["p1"]}]
    run = tmp_path / "run.trec"
    run.write_text("t-0 Q0 p1 1 2 x\nt-1 Q0 p1 1 2 x\nt-2 Q0 p5 1 2 x\nt-2 Q0 p1 2 1 x\n")
    [[row]] = searched.rank(f"run:{run}", rows=rows)["rankings"].to_list()
    assert row["ranks"] == [[1], [2]]
    run.write_text("t-0 Q0 p5 1 2 x\nt-2 Q0 p1 1 1 x\n")
    [[row]] = searched.rank(f"run:{run}", rows=rows)["rankings"].to_list()
    assert row["ranks"] == [[6], [1]]


def test_hard_negatives_come_from_the_nearest_miss_on_and_are_never_gold(searched: Searched) -> None:
    texts = ["gold text", "near", "near", "far", "gold text", "other gold"]
    write_jsonl(searched.corpus, [{"_id": f"p{n}", "text": text} for n, text in enumerate(texts)])
    rows = [{"id": "t", "candidates": {"best": "gold", "poor": "near", "bad": "far"}, "gold": ["p0", "p5"]}]
    ranked = searched.rank("bm25", rows=rows)
    places = [[], [4, 1, 2], [3, 1]]
    given = {"retriever": "bm25", "ranks": [[1, 2], [4, 6], [6, 6]], "rewards": [1.0, 0.2, 0.0], "above": places}
    frame = ranked.with_columns(pl.Series("rankings", [[given]], dtype=ranked.schema["rankings"]))
    stage = MinedNegatives(passages=searched.keys["passages"], first_turns=True)
    made, dropped = stage.apply(frame, searched.store.root)
    assert not dropped
    assert made.select("query", "positive", "negative", "rejected").rows() == [
        ("gold", "gold text", "near", "near"),
        ("gold", "gold text", "far", "far"),
    ]


def test_a_search_endpoint(searched: Searched, endpoint: Endpoint) -> None:
    url = f"http://127.0.0.1:{endpoint.server_port}/search"
    endpoint.fails = 2  # tried again
    assert searched.ranks(url) == [[2, 2, 2, 2]]
    asked = endpoint.asked
    searched.ranks(url)
    assert endpoint.asked == asked  # made already
    endpoint.answer = {"hits": []}
    with pytest.raises(EngineRefused, match="another form"):
        searched.ranks({"spec": url, "name": "other"})
    endpoint.answer, endpoint.fails = None, 99
    with pytest.raises(EngineError, match="cannot be searched"):
        HttpSearch(url, "", searched.store.root, "").ask(["river"], 5)
