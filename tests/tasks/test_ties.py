"""Equal scores, and a query's own passage, beside trec_eval and BEIR's evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from synthmill.flows.methods.retpo.dataset import note_own, note_ties
from synthmill.schemas.errors import InputError
from synthmill.schemas.turn_settings import CorpusSettings
from synthmill.storage.plain_files.turns import is_beir
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.bm25_ranks import Bm25Settings
from synthmill.tasks.retrieval.comparisons import MinedNegatives
from synthmill.tasks.retrieval.indexes import own_passages
from synthmill.tasks.retrieval.metrics import measures
from synthmill.tasks.retrieval.ranks import without_places
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from synthmill.tasks.retrieval.run_ranks import read_run
from tests.conftest import write_jsonl
from tests.tasks.test_retrieval import Searched

NAMES = ["a", "b", "B", "10", "9", "é", "z", "字", "😀", "a1"]
TIED = [0.5, 0.5 + 1e-9, 0.5000001, 7.0, 7.0000001, -1.0]
RUNS = st.lists(
    st.tuples(st.permutations(NAMES), st.lists(st.sampled_from(TIED), min_size=10, max_size=10)), min_size=1
)


def ranked(path: Path, ties: str) -> dict[str, list[str]]:
    """Per query, its passages in the order that a run's hits are read in."""
    queries, starts, passages, hits, _ = read_run(path, ties)
    return {name: [passages[at] for at in hits[starts[n] : starts[n + 1]]] for name, n in queries.items()}


def reciprocal(order: dict[str, list[str]], gold: dict[str, str]) -> list[float]:
    ranks = [[order[query].index(passage) + 1] for query, passage in gold.items()]
    found: list[float] = measures(ranks, [[1]] * len(ranks), 100)["MRR"].tolist()
    return found


def judged(run: dict[str, dict[str, float]], gold: dict[str, str]) -> list[float]:
    """trec_eval's reciprocal ranks."""
    qrels = {query: {passage: 1} for query, passage in gold.items()}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
    return [found[query]["recip_rank"] for query in gold]


@given(RUNS)
def test_ties_of_a_run_as_trec_eval_has_them_or_by_its_ranks(tmp_path_factory: Any, runs: Any) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    hits = {f"q{n}": dict(zip(names, scores, strict=True)) for n, (names, scores) in enumerate(runs)}
    lines = [
        f"{query} Q0 {name} {rank} {score!r} x\n"
        for query, scores in hits.items()
        for rank, (name, score) in enumerate(scores.items(), 1)
    ]
    path.write_text("".join(lines), "utf-8")
    as_trec_eval, by_rank = ranked(path, "trec_eval"), ranked(path, "rank")
    untied = {  # scores that say what the rank column does, so that trec_eval sees no tie
        query: {name: float(-place) for place, name in enumerate(sorted(scores, key=lambda name: -scores[name]))}
        for query, scores in hits.items()
    }
    for name in NAMES:
        gold = dict.fromkeys(hits, name)
        assert reciprocal(as_trec_eval, gold) == pytest.approx(judged(hits, gold))
        assert reciprocal(by_rank, gold) == pytest.approx(judged(untied, gold))


def searched(folder: Path, passages: dict[str, str], ids: str = "_id") -> Searched:
    rows = [{ids: name, "text": text} for name, text in passages.items()]
    return Searched(folder, write_jsonl(folder / "corpus.jsonl", rows))


def test_our_own_retrievers_keep_equal_scores_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    passages = {"m": "a lamp", "z": "a lamp", "a": "a lamp", "other": "a mill"}
    look = searched(tmp_path, passages)
    rows = [{"id": name, "query": "lamp", "gold": [name]} for name in "mza"]
    for retriever in ("bm25", "dense", "fusion"):
        assert look.ranks(retriever, rows=rows) == [[1, 2, 3]]
    trec_eval = judged({name: {"m": 1.0, "z": 1.0, "a": 1.0} for name in "mza"}, {name: name for name in "mza"})
    assert trec_eval == pytest.approx([1 / 2, 1, 1 / 3])  # its ties go from z to a


def test_a_setting_orders_the_ties_of_a_run_and_is_part_of_the_key_only_where_it_differs(tmp_path: Path) -> None:
    look = searched(tmp_path, {"a": "x", "b": "y"})
    run = tmp_path / "run.trec"
    run.write_text("q Q0 a 1 0.30000001 x\nq Q0 b 2 0.3 x\n")
    rows = [{"id": "q", "query": "lamp", "gold": ["a"]}]
    by_rank, trec_eval = {"spec": f"run:{run}"}, {"spec": f"run:{run}", "ties": "trec_eval"}
    assert look.ranks(by_rank, rows=rows) == [[1]]
    assert look.ranks(trec_eval, rows=rows) == [[2]]
    given_ = [RetrieverSettings.model_validate(one) for one in (by_rank, trec_eval)]
    assert note_ties([*given_, Bm25Settings()]) == [
        "run: equal scores stand in the order of its rank column (ties: rank)",
        "run: equal scores stand as trec_eval has them, ids from z to a (ties: trec_eval)",
    ]
    plain = given_[0].ranks({}, passages="p", depth=5).identity({})["settings"]
    assert "ignore_identical_ids" not in plain and "ties" not in plain["retriever"]  # as stored ranks have it
    changed = given_[1].ranks({}, passages="p", depth=5, ignore_identical_ids=True).identity({})["settings"]
    assert changed["ignore_identical_ids"] and changed["retriever"]["ties"] == "trec_eval"
    with pytest.raises(ValueError, match="ties means nothing to bm25"):
        RetrieverSettings.model_validate({"spec": "bm25", "ties": "trec_eval"})


QUESTION = "Do tall lamps help ships at night?"
OWN = {"q1": QUESTION, "d1": "tall lamps guide ships", "d2": "ships carry grain", "d3": "night trains"}


def beir(order: list[str], query: str, gold: str) -> float:
    """The reciprocal rank as BEIR's evaluation has it: a hit with the query's id is left out."""
    run = {name: float(-place) for place, name in enumerate(order) if name != query}
    return judged({query: run}, {query: gold})[0]


def test_a_querys_own_passage_is_left_out_of_its_ranks_as_beir_has_it(tmp_path: Path) -> None:
    look = searched(tmp_path, OWN)
    run = tmp_path / "run.trec"
    run.write_text("".join(f"q1 Q0 {name} {n} {-n} x\n" for n, name in enumerate(OWN)))
    rows = [{"id": "q1", "query": QUESTION, "gold": ["d1"]}]
    retrievers = ["bm25", "dense", "fusion", f"run:{run}"]
    assert look.ranks(*retrievers, rows=rows, depth=3) == [[2]] * 4
    look.ignore_identical_ids = True
    assert look.ranks(*retrievers, rows=rows, depth=3) == [[1]] * 4
    assert beir(list(OWN), "q1", "d1") == 1
    assert look.ranks(f"run:{run}", rows=[{**rows[0], "gold": ["d3"]}], depth=3) == [[3]]  # a fourth hit is looked at
    assert beir(list(OWN), "q1", "d3") == pytest.approx(1 / 3)
    assert look.ranks("bm25", rows=[{**rows[0], "id": "q2"}]) == [[2]]
    ids = pl.Series(["q1", "q1", "d2", "q2"])
    assert own_passages(look.store.root, look.keys["passages"], ids) == 2
    assert note_own(0, True) == note_own(0, False) == ""
    assert note_own(2, True).startswith("2 queries have a passage of their own id: it is left out")
    assert note_own(1, False).startswith("1 query has a passage of its own id: it is ranked as any other")


def test_one_hit_is_left_out_and_the_last_one_where_it_is_none() -> None:
    hits = Hits(np.array([[4, 7, 2], [4, 7, 2], [4, -1, -1]]), np.array([[3.0, 2, 1], [3, 2, 1], [3, 0, 0]]))
    left = without_places(hits, np.array([7, 5, -1]))
    assert left.places.tolist() == [[4, 2], [4, 7], [4, -1]]
    assert left.scores.tolist() == [[3, 1], [3, 2], [3, 0]]


def test_the_question_itself_is_no_hard_negative(tmp_path: Path) -> None:
    look = searched(tmp_path, {**OWN, "copy": QUESTION})
    rows = [{"id": "q1", "candidates": {"good": "tall lamps guide", "poor": QUESTION}, "gold": ["d1"]}]
    frame = look.rank("bm25", rows=rows)
    ranking = {"retriever": "bm25", "ranks": [[1], [4]], "rewards": [1.0, 0.2], "above": [[], [0, 4, 2]]}
    frame = frame.with_columns(pl.Series("rankings", [[ranking]], dtype=frame.schema["rankings"]))
    stage = MinedNegatives(passages=look.keys["passages"], first_turns=True)
    made, dropped = stage.apply(frame, look.store.root)
    assert (made["negative"].to_list(), dropped) == ([OWN["d2"]], [])
    only = frame.with_columns(
        pl.Series("rankings", [[{**ranking, "above": [[], [0, 4]]}]], dtype=frame.schema["rankings"])
    )
    made, dropped = stage.apply(only, look.store.root)
    assert (made.height, [one.reason for one in dropped]) == (0, ["no_negative"])


def test_beir_files_are_known_by_their_ids_or_their_header(tmp_path: Path) -> None:
    named = CorpusSettings(path=str(write_jsonl(tmp_path / "a.jsonl", [{"_id": "d", "text": "x"}])))
    other = CorpusSettings(path=str(write_jsonl(tmp_path / "b.jsonl", [{"id": "d", "text": "x"}])))
    header, plain = tmp_path / "beir.tsv", tmp_path / "qrels.txt"
    header.write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    plain.write_text("q 0 d 1\n")
    assert [is_beir(named, ""), is_beir(other, str(header)), is_beir(named, str(plain))] == [True, True, True]
    assert [is_beir(other, ""), is_beir(other, str(plain))] == [False, False]
    with pytest.raises(InputError, match=r"none\.tsv cannot be read"):
        is_beir(other, str(tmp_path / "none.tsv"))
