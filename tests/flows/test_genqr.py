"""GenQREnsemble and GenQRFusion: keywords and their queries by hand, fused lists, and whole within `retpo`."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from synthmill.flows.methods.retpo import plan
from synthmill.flows.methods.retpo.settings import RetpoSettings
from synthmill.schemas.calls import Completion, Message
from synthmill.schemas.errors import Drop
from synthmill.schemas.retpo import Candidate, WithCandidates
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.fused_lists import fuse_hits, search_fused
from synthmill.tasks.retrieval.keyword_queries import INSTRUCTIONS, KeywordQueries, read_keywords
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.flows.test_retpo import WORDS, turns

LOCK = {
    "stages": {
        "keyword_queries@2": "9c933a5d5d67989c",
    },
    "prompts": {
        "retpo/keywords": "b989f1b47cf8",
    },
}

TURN = WithCandidates(
    id="t",
    conversation="c",
    turn=2,
    history=(Message(role="user", content="Who wrote Dracula?"),),
    question="when was it published",
    gold=(),
    candidates=(
        Candidate(query="when was it published", methods=("question",), number=3),
        Candidate(query="When was Dracula published?", methods=("rewrite",), number=0),
    ),
)


def test_keywords_of_every_instruction_behind_the_question() -> None:
    steps = KeywordQueries(instructions=("Suggest terms.", "List synonyms.", "Name entities."), attempts=1).steps(TURN)
    requests = next(steps)
    assert [request.messages[-1].content.partition("\n")[0] for request in requests][1] == "List synonyms."
    assert "Query: When was Dracula published?" in requests[0].messages[-1].content
    texts = ("Bram Stoker, 1897, stoker, Dracula", "Keywords:\n1. novel\n2. 1897", "")
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text=text) for text in texts])
    *before, ensemble, fusion = done.value.value.candidates
    assert tuple(before) == TURN.candidates and (ensemble.number, fusion.number) == (4, 5)
    question = "When was Dracula published?"
    assert ensemble.query == f"{question} Bram Stoker 1897 stoker novel 1897" and ensemble.methods == ("ensemble",)
    assert fusion.query == f"{question} Bram Stoker 1897 stoker\n{question} novel 1897"


def test_sentences_and_words_of_the_query_are_no_keywords() -> None:
    text = "Sure, here are some keywords that would help you find it: novel, Published, gothic horror; *vampire*"
    assert read_keywords(Completion(text="- novel\n- Published\n- gothic horror; *vampire*"), TURN.question) == [
        *("novel", "gothic horror", "vampire")
    ]
    assert "vampire" in read_keywords(Completion(text=text), TURN.question)
    assert read_keywords(Completion(text="novel, goth", finish_reason="length"), "q") == ["novel"]
    counted = "horror, Keyword 1, Keyword 2, Keyword 3, iOS 15, iOS 16, iOS 17, World War 1, World War 2"
    kept = ["horror", "iOS 15", "iOS 16", "iOS 17", "World War 1", "World War 2"]
    assert read_keywords(Completion(text=counted), "q") == kept
    with pytest.raises(Drop, match="no_keywords"):
        read_keywords(Completion(text="published"), TURN.question)


def test_a_first_turn_and_a_turn_without_keywords_stay() -> None:
    with pytest.raises(StopIteration) as done:
        next(KeywordQueries().steps(TURN.model_copy(update={"history": (), "turn": 1})))
    assert len(done.value.value.candidates) == 2
    steps = KeywordQueries(attempts=1).steps(TURN)
    assert len(next(steps)) == len(INSTRUCTIONS) == 10
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="")] * 10)
    assert done.value.value == TURN


def hits(*rows: list[int]) -> Hits:
    return Hits(np.array(rows, np.int32), np.ones((len(rows), len(rows[0])), np.float32))


def test_three_lists_are_fused_by_hand() -> None:
    fused = fuse_hits([hits([1, 2, 3]), hits([3, 4, -1]), hits([3, 1, -1])], 60)
    assert fused.places.tolist() == [[3, 1, 2]]  # 2 and 4 are equal: the corpus decides
    assert fused.scores[0] == pytest.approx([1 / 63 + 2 / 61, 1 / 61 + 1 / 62, 1 / 62])


def test_lines_of_a_fused_query_are_searched_for_one_by_one() -> None:
    class Lines:
        def search(self, ids: list[tuple[str, int]], queries: list[str], depth: int) -> Hits:
            assert (ids, queries) == ([("t", 0), ("t", 1), ("t", 1)], ["a\nb", "c", "d"])
            return hits([9, 8], [1, 2], [2, 3])

    found = search_fused(Lines(), [("t", 0), ("t", 1)], ["a\nb", "c\nd"], [False, True], 2)
    assert found.places.tolist() == [[9, 8], [2, 1]]


def test_whole_as_methods_of_retpo(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "turns.jsonl", turns(4))
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"p{n}", "title": "", "text": WORDS[n % 12]} for n in range(40)])
    settings = {"source": "turns.jsonl", "corpus": "corpus.jsonl", "engines": {"teacher": server.spec}, "workers": 0}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    keywords = ["--set", "candidates.keywords=[ensemble, fusion]", "--set", "candidates.methods=[rewrite]"]
    synthmill("run", "retpo", "--config", "run.yaml", *keywords, cwd=tmp_path)
    assert server.stats()["total"] == 3 * (1 + 10)
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    queries = pl.read_parquet(folder / "data" / "queries" / "train-*.parquet").filter(pl.col("turn") > 1)
    methods = set(queries["methods"].explode())
    assert {"rewrite", "ensemble", "fusion"} <= methods
    fused = queries.filter(pl.col("methods").list.contains("fusion"))
    assert fused.height == 3 and (fused["query"].str.count_matches("\n") >= 1).all() and (fused["rank"] >= 1).all()


def test_stored_candidates_keep_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "turns.jsonl", turns(4))
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "p0", "title": "", "text": "river"}])
    settings = {"source": "turns.jsonl", "corpus": "corpus.jsonl", "store": str(tmp_path / "store")}
    settings["engines"] = {"teacher": {"spec": "openai:model@http://127.0.0.1:9/v1"}}
    own = [{}, {"candidates": {"keywords": ["ensemble"]}}]
    plain, more = (plan(read_settings(RetpoSettings, None, {**settings, **changes})) for changes in own)
    keys = {step.step: step.key for step in plain.stages}
    assert {step.step: step.key for step in more.stages}["candidates"] == keys["candidates"]
    assert "keyword_queries" not in keys
