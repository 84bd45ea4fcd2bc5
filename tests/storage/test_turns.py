"""Readers of conversational search: the forms of MTRAG, TopiOCQA, QReCC and BEIR, and what is wrong in them."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.retpo import Gold
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.plain_files.lines import Line
from synthmill.storage.plain_files.rows import read_chunks
from synthmill.storage.plain_files.turns import PASSAGES, queries_kind, read_qrels, turn_of, turns_kind
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from tests.conftest import write_jsonl

SOURCE = TurnSettings(path="x.jsonl")


def read(fields: dict[str, Any], qrels: Any = None) -> Any:
    return turn_of(Line("line-1", fields), SOURCE, qrels)


def test_mtrag() -> None:
    history = [{"speaker": "user", "text": "A?"}, {"speaker": "agent", "text": "B."}, {"speaker": "user", "text": "C?"}]
    row = read(
        {
            "task_id": "t<::>2",
            "conversation_id": "t",
            "turn": 2,
            "input": history,
            "contexts": [{"document_id": "p1", "text": "..."}, {"document_id": "p2"}],
            "targets": [{"text": "An answer."}],
            "Multi-Turn": ["Follow-up"],
        }
    )
    assert (row.id, row.question, row.turn, row.turn_type, row.answer) == ("t<::>2", "C?", 2, "Follow-up", "An answer.")
    assert [(message.role, message.content) for message in row.history] == [("user", "A?"), ("assistant", "B.")]
    assert [one.passage for one in row.gold] == ["p1", "p2"]
    beir = read({"_id": "t<::>2", "text": "|user|: A?\n|user|: C?"}, {"t<::>2": {"p1": 1}})
    assert (beir.question, [message.content for message in beir.history]) == ("C?", ["A?"])


def test_topiocqa_and_qrecc() -> None:
    topiocqa = read(
        {
            "Conversation_no": 7,
            "Turn_no": 3,
            "Question": "and then?",
            "Answer": "Rome",
            "Topic": "Hannibal",
            "Context": ["q1", "a1", "q2", "a2"],
            "Gold_passage": {"id": "wiki:12", "title": "Hannibal", "text": "..."},
        }
    )
    assert (topiocqa.id, topiocqa.conversation, topiocqa.topic, topiocqa.answer) == ("7_3", "7", "Hannibal", "Rome")
    assert [message.role for message in topiocqa.history] == ["user", "assistant"] * 2
    assert topiocqa.gold == (Gold(passage="wiki:12"),)
    qrecc = read(
        {
            "Conversation_no": 1,
            "Turn_no": 2,
            "Question": "who?",
            "Context": "Q1: first\nA1: second",
            "Truth_rewrite": "who wrote it?",
            "Truth_passages": ["http://a_p0", "http://a_p1"],
            "Truth_answer": "",
        }
    )
    assert [message.content for message in qrecc.history] == ["first", "second"]
    assert (qrecc.human_rewrite, qrecc.answer, len(qrecc.gold)) == ("who wrote it?", None, 2)


def test_speakers_are_spelled_in_many_ways_and_say_it_in_parts() -> None:
    history = [
        {"from": "Human", "value": [{"type": "text", "text": "Who wrote "}, {"type": "text", "text": "it?"}]},
        {"speaker": "System", "text": "Bram Stoker."},
    ]
    turn = read({"question": "When?", "history": history, "gold": ["p"]})
    assert [(message.role, message.content) for message in turn.history] == [
        ("user", "Who wrote it?"),
        ("assistant", "Bram Stoker."),
    ]


def test_beir_queries_are_turns_of_their_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "bonds"}, {"_id": "q2", "text": "stocks"}])
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td9\t0\n")
    [chunk] = read_chunks(
        TurnSettings(path=str(tmp_path / "queries.jsonl")), 10, turns_kind(str(tmp_path / "test.tsv"))
    )
    [row] = chunk.rows
    assert (row.id, row.turn, row.history, row.gold) == ("q1", 0, (), (Gold(passage="d1", relevance=2),))
    assert [(drop.id, drop.reason) for drop in chunk.dropped] == [("line-2", "no_gold")]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "q", "history": [{"role": "user", "text": "a"}]}, "no_gold: no relevant passage is named"),
        ({"question": "q", "gold": []}, "no_gold"),
        ({"question": "q", "turn": 3, "history": [], "gold": ["p"]}, "empty_history: turn 3 has nothing before it"),
        ({"question": "q", "history": [{"role": "robot", "text": "a"}], "gold": ["p"]}, "bad_history: message 0"),
        ({"question": "q", "history": [7], "gold": ["p"]}, "bad_history"),
        ({"question": "q", "history": [{"role": "developer", "content": "a"}], "gold": ["p"]}, "bad_history"),
        ({"question": "q", "history": [{"role": "user", "content": None}], "gold": ["p"]}, "bad_history"),
        (
            {"question": "q", "history": [{"role": "user", "content": [{"type": "video"}]}], "gold": ["p"]},
            "video in content",
        ),
        ({"question": "q", "history": 5, "gold": ["p"]}, "bad_history: it is 5"),
        ({"question": "q", "history": {"role": "user", "content": "a"}, "gold": ["p"]}, "bad_history"),
        ({"question": "q", "history": [{"role": ["user"], "content": "a"}], "gold": ["p"]}, "bad_history"),
        ({"question": "q", "gold": {"p": "high"}}, "bad_gold: a relevance is 'high'"),
        ({"question": "q", "gold": {"p": 0.5}}, "bad_gold"),
        ({"question": "q", "gold": [{"id": "p", "relevance": "9" * 30}]}, "bad_gold"),
        ({"question": "q", "gold": {"p": 0}}, "no_gold"),
        ({"question": "q", "gold": [{"id": "p", "relevance": False}]}, "no_gold"),
        ({"question": " ", "gold": ["p"]}, "empty_question"),
        ({"gold": ["p"]}, "null_question"),
        ({"question": 7, "gold": ["p"]}, "question_not_text"),
    ],
)
def test_what_a_turn_may_lack(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(Drop, match=reason):
        read(fields)


def test_turns_are_numbered_by_their_history_where_nothing_says_so() -> None:
    history = [{"role": "user", "content": "a"}, {"role": "agent", "content": "b"}]
    rows = [read({"conversation": "c", "question": "q", "history": history * n, "gold": ["p"]}) for n in range(3)]
    assert [(row.id, row.turn) for row in rows] == [("c_1", 1), ("c_2", 2), ("c_3", 3)]
    assert read({"conversation": "c", "turn": 0, "question": "q", "gold": ["p"]}).turn == 1  # counted from 0: the first
    assert read({"conversation": "c", "turn": "9" * 30, "question": "q", "history": history, "gold": "p"}).turn == 2
    assert read({"question": "q", "gold": {"a": 0, "b": 2}, "enrichments": "none"}).gold == (
        Gold(passage="b", relevance=2),
    )


@pytest.mark.parametrize("name", ["7_2", "7-2", "QReCC-Test_7_2", "QReCC-Train_7_2"])
def test_judgements_may_call_a_turn_as_the_released_ones_do(name: str) -> None:
    fields = {"Conversation_no": 7, "Turn_no": 2, "Question": "q", "Context": ["a", "b"]}
    row = read(fields, {name: {"p": 1}})
    assert (row.id, row.gold[0].passage) == (name, "p")
    with pytest.raises(Drop, match="no relevant passage is named for 7_2; the judgements are of other, "):
        read(fields, {"other": {"p": 1}})


def test_a_plain_query_keeps_every_turn_that_it_is_made_of(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [{"_id": "x", "text": "|user|: A?\n|user|: C?", "gold": ["p"]}])
    write_jsonl(tmp_path / "r.jsonl", [{"_id": "x", "turn": 3, "text": "alone", "gold": ["p"]}])
    [chunk] = read_chunks(TurnSettings(path=str(tmp_path / "q.jsonl")), 10, queries_kind(""))
    assert [one.query for one in chunk.rows[0].candidates] == ["A? C?"]
    [chunk] = read_chunks(TurnSettings(path=str(tmp_path / "r.jsonl")), 10, queries_kind(""))
    assert [row.turn for row in chunk.rows] == [3]  # queries that are there need no history


def test_a_map_of_candidates_is_one_row_and_equal_queries_are_one_candidate(tmp_path: Path) -> None:
    given = [
        {
            "id": "a",
            "candidates": {"none": "", "last": "it?", "human": "Dracula?", "model": "Dracula?", "null": None},
            "gold": ["p"],
        }
    ]
    write_jsonl(
        tmp_path / "q.jsonl",
        [
            *given,
            {"id": "b", "candidates": {}, "gold": ["p"]},
            {"id": "c", "query": "x", "gold": "p"},
            {"id": "d", "candidates": {"a": ""}, "gold": ["p"]},
        ],
    )
    [chunk] = read_chunks(TurnSettings(path=str(tmp_path / "q.jsonl")), 10, queries_kind(""))
    assert [(one.query, one.methods) for one in chunk.rows[0].candidates] == [
        ("it?", ("last",)),
        ("Dracula?", ("human", "model")),
    ]
    assert [one.query for one in chunk.rows[1].candidates] == ["x"]
    assert [one.number for one in chunk.rows[0].candidates] == [1, 2]  # as runs of the file know them
    assert [drop.reason for drop in chunk.dropped] == ["bad_candidates", "no_queries"]


@pytest.mark.parametrize(
    "text",
    [
        "q1\t0\td1\t1\nq1\t0\td2\t2\n",
        "\nq1 0 d1 1\nq1 0 d2 2.0\n\n",
        "score\tcorpus_id\tqid\n1\td1\tq1\n2\td2\tq1\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t2\n",
    ],
)
def test_qrels_in_any_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "qrels").write_text(text)
    assert read_qrels(tmp_path / "qrels") == {"q1": {"d1": 1, "d2": 2}}
    with gzip.open(tmp_path / "qrels.gz", "wt") as file:
        file.write(text)
    assert read_qrels(tmp_path / "qrels.gz") == {"q1": {"d1": 1, "d2": 2}}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("q1\td1\t1\nq1\td1\n", "line 2"),
        ("q1 0 d1 high\nq1 0 d2 1\n", "line 1"),
        ("q1\td1\t0.5\n", "line 1"),
        ("", "no relevance judgement"),
        ("a b c d e 1\n", "line 1"),
        ("h\n", "no rel"),
    ],
)
def test_bad_qrels(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "qrels.tsv").write_text(text)
    with pytest.raises(InputError, match=fault):
        read_qrels(tmp_path / "qrels.tsv")
    with pytest.raises(InputError, match="is not there"):
        read_qrels(tmp_path / "none.tsv")


def test_passages_from_json_tsv_and_jsonl(tmp_path: Path) -> None:
    rows = [{"_id": "a", "title": "T", "text": "x"}, {"_id": "b", "title": "", "text": "y"}, {"_id": "a", "text": "z"}]
    write_jsonl(
        tmp_path / "c.jsonl", [*rows, {"id": 7, "contents": "pyserini's"}, {"text": "no id"}, {"_id": "e", "text": ""}]
    )
    (tmp_path / "c.json").write_bytes(orjson.dumps(rows))
    (tmp_path / "c.tsv").write_text("id\ttext\ttitle\na\tx\tT\nb\ty\t\n")
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress((tmp_path / "c.tsv").read_bytes()))
    for name, ids in (("c.jsonl", ["a", "b", "7"]), ("c.json", "ab"), ("c.tsv", "ab"), ("c.tsv.gz", "ab")):
        [chunk] = read_chunks(CorpusSettings(path=str(tmp_path / name)), 10, PASSAGES)
        assert [row.id for row in chunk.rows] == list(ids)
        assert [row.indexed for row in chunk.rows[:2]] == ["T\nx", "y"]
        reasons = {"c.jsonl": ["duplicate_id", "no_id", "empty_text"], "c.json": ["duplicate_id"]}
        assert [drop.reason for drop in chunk.dropped] == reasons.get(name, [])
    (tmp_path / "quotes.tsv").write_text('id\ttext\nd1\t"Hello is what he says\nd2\t"a ""b"" c"\nd3\tplain\n')
    [chunk] = read_chunks(CorpusSettings(path=str(tmp_path / "quotes.tsv")), 10, PASSAGES)
    assert [row.text for row in chunk.rows] == ['"Hello is what he says', 'a "b" c', "plain"]
    write_jsonl(tmp_path / "lines.jsonl", [{"_id": "line-2", "text": "x"}, {"_id": "b", "text": ""}])
    [chunk] = read_chunks(CorpusSettings(path=str(tmp_path / "lines.jsonl")), 10, PASSAGES)
    assert chunk.ids_in == ["line-2", "line-2 (unreadable)"]
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="expected an array of objects"):
        list(read_chunks(CorpusSettings(path=str(tmp_path / "c.json")), 10, PASSAGES))
    write_jsonl(tmp_path / "c.jsonl", [{"a": 1}])
    with pytest.raises(InputError, match=r"no column 'text' \(nor contents\); found: a"):
        list(read_chunks(CorpusSettings(path=str(tmp_path / "c.jsonl")), 10, PASSAGES))


WORDS = {"k1": 1.2, "b": 0.75, "stopwords": "en", "stemmer": "english"}
MODEL = {"model": "minilm", "query_prompt": "", "passage_prompt": "", "index": "auto"}
OTHER_KINDS = {"name": "", **WORDS, **MODEL, "rrf_k": 60, "ties": "rank", "url": "", "api_key_env": ""}
"""A record of a retriever, from before kinds had fields of their own."""


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ("bm25", {"kind": "bm25", "k1": 1.2, "b": 0.75}),
        ("bm25:topiocqa", {"k1": 0.9, "b": 0.4}),
        ("bm25:qrecc", {"k1": 0.82, "b": 0.68}),
        ("dense:owner/name", {"kind": "dense", "model": "owner/name"}),
        ({"spec": "fusion", "name": "both", "rrf_k": 10}, {"kind": "fusion", "label": "both", "rrf_k": 10}),
        ("run:x.trec", {"kind": "run", "path": "x.trec"}),
        ({**OTHER_KINDS, "kind": "run", "path": "x.trec"}, {"kind": "run", "path": "x.trec", "ties": "rank"}),
        ("http://127.0.0.1:9/search", {"kind": "http", "url": "http://127.0.0.1:9/search"}),
    ],
)
def test_retrievers_by_name(spec: Any, fields: dict[str, Any]) -> None:
    settings = RetrieverSettings.model_validate(spec)
    assert {name: getattr(settings, name) for name in fields} == fields


@pytest.mark.parametrize(
    "spec",
    [
        "bm26",
        "bm25:marco",
        "run:",
        "http://user:pass@host/x",
        "http://host/?api_key=x",
        {"kind": "http"},
        {"spec": "dense", "k1": 5},
        {"spec": "bm25", "model": "x"},
        {"spec": "bm25", "name": "a/b"},
    ],
)
def test_retrievers_that_are_none(spec: Any) -> None:
    with pytest.raises(ValueError, match=r"expected bm25|secret|http needs url|means nothing to|match pattern"):
        RetrieverSettings.model_validate(spec)
