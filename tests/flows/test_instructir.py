"""The method `instructir`: searchers, checks and triplets by hand, and whole."""

from pathlib import Path

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.instructir import (
    CheckedSearchers,
    InstructedQueries,
    SearchChecks,
    Searchers,
    SearchScenarios,
    read_target,
    same_targets,
)
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import to_arrow
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

LOCK = {
    "stages": {
        "instructed_queries@2": "c0672ba05141a546",
        "search_checks@2": "35ade8f51b9603de",
        "search_scenarios@2": "32e3ae4c230f9bc0",
    },
    "prompts": {
        "instructir/choice": "3bcae7d9b71e",
        "instructir/relevance": "1568c49dbd59",
        "instructir/scenarios": "6592c5895f25",
        "instructir/target": "b2a4adc07cf1",
    },
}

QUERY = Question(id="q", prompt="why do cats purr", reference="Cats purr when they are content, or ill.")
SEARCHERS = Searchers(
    id="s", prompt=QUERY.prompt, scenarios=("I am a vet.", "I am a child."), targets=("Purring, clinically.", "Purr!")
)


def answer(**fields: object) -> Completion:
    return Completion(text=orjson.dumps(fields).decode())


def test_one_call_for_searchers_then_one_for_each_target() -> None:
    steps = SearchScenarios(attempts=2).steps(QUERY)
    [request] = next(steps)
    assert "List 10 different people" in request.messages[-1].content
    [again] = steps.send([answer(searchers=["I am a vet.", "i am  a vet.", "vet"])])
    assert "there were 1 different searchers" in again.messages[-1].content
    mixed = Completion(text="Earlier article available 介绍了几个颜色题的规则")
    with pytest.raises(Drop, match="mixes_languages: it mixed in"):
        read_target(mixed, QUERY.reference)
    assert read_target(mixed, "颜色题 colours") == mixed.text
    first, second, third = steps.send([answer(searchers=["I am a vet.", "I am a child.", "I own a cat."])])
    assert "The searcher: I am a child." in second.messages[-1].content and first.optional and third.optional
    replies = [Completion(text=text) for text in ("Clinically.", " ", QUERY.reference.upper())]
    empty, unchanged = steps.send(replies)
    assert "it was the passage as before" in unchanged.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="purr " * 20), Completion(text="At home.")])
    assert "I am a child." in empty.messages[-1].content
    assert done.value.value.scenarios == ("I am a vet.", "I own a cat.")
    assert set(same_targets("a b", ("A  b", "c", None, "C"))) == {0, 3}
    with pytest.raises(Drop, match="no_passage"):
        next(SearchScenarios().steps(QUERY.model_copy(update={"reference": ""})))


def test_relevance_and_the_first_choice_whatever_the_order() -> None:
    steps = SearchChecks(attempts=1).steps(SEARCHERS)
    requests = next(steps)
    assert len(requests) == 4
    shown = [request.messages[-1].content for request in requests]
    own = [
        text.split(f": {target}")[0].rpartition("Passage ")[2]
        for text, target in zip(shown[2:], SEARCHERS.targets, strict=True)
    ]
    replies = [Completion(text="Good. [RESULT] 5"), Completion(text="none"), answer(passage=int(own[0]))]
    with pytest.raises(StopIteration) as done:
        steps.send([*replies, answer(passage=7)])
    checked: CheckedSearchers = done.value.value
    assert checked.relevance == (5, None) and checked.choices == (0, None)


def test_rows_say_which_check_they_failed(tmp_path: Path) -> None:
    four = SEARCHERS.model_copy(update={"scenarios": ("a", "b", "c", "d"), "targets": ("x", "y", "z", "w")})
    checked = CheckedSearchers(**four.__dict__, relevance=(5, 3, 4, None), choices=(0, 1, 0, 3))
    rows, drops = InstructedQueries().apply(pl.DataFrame(to_arrow(CheckedSearchers, [checked])), tmp_path)
    assert not drops and rows["fault"].to_list() == ["", "not_relevant", "another_first", "unread"]
    assert rows["anchor"][0] == "a\nwhy do cats purr" and rows["group"].unique().to_list() == ["s"]
    assert all(row["negative"] in {"x", "y", "z", "w"} - {row["positive"]} for row in rows.to_dicts())
    assert InstructedQueries(least=3).apply(pl.DataFrame(to_arrow(CheckedSearchers, [checked])), tmp_path)[0][
        "fault"
    ].to_list() == ["", "", "another_first", "unread"]


def test_whole_and_with_one_more(tmp_path: Path, server: ChatServer) -> None:
    rows = [{**row, "passage": f"Birds circle. {row['id']}"} for row in prompts(3)]
    write_jsonl(tmp_path / "in.jsonl", rows[:2])
    run = [
        "run",
        "instructir",
        "--workers",
        0,
        "--set",
        f"engines.teacher={server.spec}",
        "--set",
        "source.path=in.jsonl",
    ]
    run += ["--set", "source.reference_column=passage", "--set", "dedup.layers=[exact]", "--set", "least=1"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "What the checks made of searchers" in out
    asked = server.stats()["total"]
    write_jsonl(tmp_path / "in.jsonl", rows)
    synthmill(*run, cwd=tmp_path)
    assert server.stats()["total"] <= asked * 3 / 2 + 4 and server.stats()["repeated"] == 0
