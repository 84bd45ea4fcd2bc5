"""Selectors: ratings, refinement, difficulty, tags, lengths and bands by hand; k-center and facility location against
plain loops; all of them as steps of one pipeline.
"""

import re
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import yaml

from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import TableRow
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.asking.alpagasus import AlpaGasus
from synthmill.tasks.asking.following_difficulty import FollowingDifficulty
from synthmill.tasks.asking.instag import IntentionTags, plain_tag
from synthmill.tasks.asking.introspection import Introspection
from synthmill.tasks.asking.row_chats import read_chat
from synthmill.tasks.cores import Array
from synthmill.tasks.tables.length_and_band import Longest, QuantileBand
from synthmill.tasks.tables.tag_choice import CommonTags, ComplexFirst
from synthmill.tasks.vectors.facility_location import facility_location
from synthmill.tasks.vectors.k_center import k_center
from synthmill.tasks.vectors.vendi import vendi_score
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, write_jsonl

LOCK = {
    "stages": {
        "alpagasus@1": "11beb66379f3077b",
        "common_tags@1": "afa1bbbbeb7c1f2e",
        "complex_first@1": "2a0235946c8dd866",
        "facility_location@1": "b5878c79175eb85c",
        "following_difficulty@1": "addfd51110208d1e",
        "intention_tags@2": "e1d11a1560aee5f6",
        "introspection@2": "ea49de1c5c28992d",
        "k_center@1": "50972e7b04a56889",
        "longest@1": "80c1edee7b763da0",
        "one_per_cluster@1": "db8175b58a2837b3",
        "quantile_band@1": "6818b099eceb1759",
    },
    "prompts": {
        "alpagasus/rate": "d2a3298cda1d",
        "instag/tag": "6135772fd360",
        "introspection/refine": "bd6fca87ff9d",
    },
}
ROW = TableRow(id="r", values={"prompt": "Why do birds draw circles?", "response": "To stay in warm air."})


def reply(**fields: object) -> list[Completion]:
    return [Completion(text=orjson.dumps(fields).decode())]


def test_a_rating_from_0_to_5() -> None:
    steps = AlpaGasus(attempts=2).steps(ROW)
    [request] = next(steps)
    assert (
        "Rate the accuracy" in request.messages[-1].content and "To stay in warm air." in request.messages[-1].content
    )
    [again] = steps.send(reply(score=7, explanation="x"))
    assert "its score was 7" in again.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send(reply(score=4.5, explanation="Right,\nif short."))
    assert done.value.value.values == {"alpagasus": 4.5, "alpagasus_explanation": "Right, if short."}
    with pytest.raises(Drop, match="empty_answer"):
        next(AlpaGasus().steps(TableRow(id="r", values={"prompt": "Why?", "response": " "})))


@pytest.mark.parametrize(
    ("refined", "fault"), [("too short.", "repeats the review"), ("Stay in warm  air", "a part of the answer")]
)
def test_a_refined_answer_is_neither_the_review_nor_a_part(refined: str, fault: str) -> None:
    steps = Introspection(attempts=1).steps(ROW)
    next(steps)
    with pytest.raises(Drop, match=fault):
        steps.send(reply(review="Too short.", refined=refined))


def test_a_chat_is_read_as_a_prompt_is() -> None:
    chat = [{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}, {"role": "user", "content": "c"}]
    answered = read_chat({"messages": [*chat, {"role": "assistant", "content": "d"}]}, "prompt")
    assert answered.answer == "d" and answered.instruction == "user: a\n\nassistant: b\n\nuser: c"
    assert read_chat({"messages": chat}, "prompt").answer == ""
    assert read_chat({"prompt": "p", "system": "s", "output": "o"}, "prompt").instruction == "system: s\n\nuser: p"


def test_difficulty_is_a_ratio_of_losses() -> None:
    steps = FollowingDifficulty().steps(ROW)
    behind, alone = next(steps)
    assert behind.scored == alone.scored == "To stay in warm air." and alone.messages[0].content == ""
    scores = [[["a", -1.0, {}], ["b", -2.0, {}]], [["a", -3.0, {}], ["b", -3.0, {}]]]
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="", logprobs=logprobs) for logprobs in scores])
    values = done.value.value.values
    assert (values["ifd"], values["loss"], values["answer_tokens"]) == (0.5, 1.5, 2)
    assert values["perplexity_alone"] == pytest.approx(np.exp(3))
    steps = FollowingDifficulty().steps(ROW)
    next(steps)
    with pytest.raises(Drop, match="no_logprobs"):
        steps.send([Completion(text="")] * 2)


def test_tags_are_plain_and_each_once() -> None:
    steps = IntentionTags(attempts=1).steps(ROW)
    next(steps)
    tags = [{"tag": tag, "explanation": ""} for tag in ("Bird-watching.", "bird watching", "C++", "…")]
    with pytest.raises(StopIteration) as done:
        steps.send(reply(tags=tags))
    assert done.value.value.values == {"tags": ["bird watching", "c++"], "complexity": 2}
    assert plain_tag("  .NET, C#!  ") == ".net c#"


def test_complexity_first_brings_new_tags_first(tmp_path: Path) -> None:
    tags = {"a": ["x"], "b": ["x", "y"], "c": ["x", "y", "z"], "d": ["w"], "e": []}
    frame = pl.DataFrame({"id": list(tags), "tags": list(tags.values())}, schema_overrides={"tags": pl.List(pl.String)})
    kept, dropped = ComplexFirst(count=3).apply(frame, tmp_path)
    assert kept["id"].to_list() == ["b", "c", "d"]  # c, d; then, anew, b
    assert {drop.reason for drop in dropped} == {"not_picked"}
    assert ComplexFirst(count=9).apply(frame, tmp_path)[0]["id"].to_list() == ["a", "b", "c", "d"]
    kept, dropped = CommonTags(fewest=2, most_per_tag=1).apply(frame, tmp_path)
    assert kept.rows() == [("a", ["x"], 1), ("b", ["x", "y"], 2)]
    assert [(drop.id, drop.reason) for drop in dropped] == [("d", "rare_tags"), ("e", "rare_tags"), ("c", "full_tags")]
    with pytest.raises(InputError, match="expected lists of texts"):
        ComplexFirst(count=1, column="id").apply(frame, tmp_path)


def test_the_longest_and_a_band(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["b", "a", "c", "d"], "response": ["one two", "three four", "one two three", None]})
    kept, dropped = Longest(count=2).apply(frame, tmp_path)
    assert kept.rows() == [("a", "three four", 2), ("c", "one two three", 3)]  # of two equal ones, the lower id
    assert [(drop.id, drop.detail) for drop in dropped] == [("b", "2"), ("d", "0")]
    scores = pl.DataFrame({"id": list("abcdef"), "ifd": [0.1, 0.5, 0.9, 1.5, None, 0.7]})
    kept, dropped = QuantileBand(score="ifd", low=0.5, most=1).apply(scores, tmp_path)
    assert kept["id"].to_list() == ["c", "f"] and len(dropped) == 4
    assert QuantileBand(score="ifd").apply(scores.clear(), tmp_path)[0].is_empty()


def unit(rows: int, dimensions: int = 16, seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((20, dimensions))
    vectors = centres[draw.integers(20, size=rows)] + 0.4 * draw.standard_normal((rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def farthest_first(vectors: Array, count: int) -> list[int]:
    """The plain loop: every row is compared with every one that was taken."""
    taken = [int(np.argmax(vectors @ vectors.sum(axis=0)))]
    likeness = vectors @ vectors[taken[0]]
    while len(taken) < count:
        likeness[taken] = np.inf
        taken.append(int(np.argmin(likeness)))
        likeness = np.maximum(likeness, vectors @ vectors[taken[-1]])
    return taken


@pytest.mark.parametrize("count", [1, 2, 300])
def test_k_center_takes_the_rows_of_the_plain_loop(count: int) -> None:
    vectors = unit(6000)
    centres = k_center(vectors, count)
    assert centres.rows.tolist() == farthest_first(vectors, count)
    likeness = (vectors @ vectors[centres.rows].T).max(axis=1)
    assert centres.radius == pytest.approx(likeness.min(), abs=1e-6)
    assert (np.diff(centres.likeness[1:]) >= -1e-6).all()


def test_k_center_leaves_out_texts_without_a_vector_and_copies_last() -> None:
    vectors = np.concatenate([unit(5), np.zeros((2, 16), np.float32), unit(5)])
    rows = k_center(vectors, 12).rows
    assert sorted(rows) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11] and sorted(rows[:5] % 7) == [0, 1, 2, 3, 4]


def test_facility_location_takes_the_rows_of_plain_greedy() -> None:
    vectors = unit(600)
    exact, fast = (facility_location(vectors, 20, epsilon=epsilon) for epsilon in (0, 0.1))
    likeness, best, taken = np.maximum(vectors @ vectors.T, 0), np.zeros(600, np.float32), []
    for _ in range(20):
        gains = np.maximum(likeness - best, 0).sum(axis=1)
        gains[taken] = -1
        taken.append(int(np.argmax(gains)))
        best = np.maximum(best, likeness[taken[-1]])
    assert exact.rows.tolist() == taken and exact.gains.sum() == pytest.approx(best.mean(), abs=1e-5)
    assert fast.gains.sum() >= 0.95 * exact.gains.sum() and len(set(fast.rows.tolist())) == 20
    assert len(set(facility_location(vectors[:8], 8).rows.tolist())) == 8


def test_vendi_counts_what_differs() -> None:
    apart = np.eye(8, dtype=np.float32)
    assert vendi_score(apart) == pytest.approx(8) and vendi_score(apart[[0] * 9]) == pytest.approx(1)
    assert vendi_score(np.concatenate([apart[[1, 1, 2, 2]], np.zeros((3, 8), np.float32)])) == pytest.approx(2)
    assert vendi_score(np.zeros((3, 8), np.float32)) == 0


STEPS = """
rating: {stage: alpagasus}
good: {stage: at_least, score: rating, value: 1}
refined: {stage: introspection}
difficulty: {stage: following_difficulty, answer: refined}
band: {stage: quantile_band, score: ifd, low: 0.1}
long: {stage: longest, answer: refined, share: 0.9}
tags: {stage: intention_tags}
common: {stage: common_tags, fewest: 1}
complex: {stage: complex_first, share: 0.9}
apart: {stage: k_center, share: 0.9}
clusters: {stage: one_per_cluster, from: complex, vectors: apart-vectors, count: 3, score: rating}
covering: {stage: facility_location, from: complex, vectors: apart-vectors, share: 0.5}
"""


def test_selectors_are_steps_of_a_pipeline(tmp_path: Path, server: ChatServer) -> None:
    rows = [{"id": f"r{n}", "prompt": f"question {n}: why?", "response": f"Because {n}.", "mine": n} for n in range(24)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    engines = dict.fromkeys(("teacher", "judge", "student"), server.spec)
    written = {"source": "rows.jsonl", "workers": 0, "engines": engines, "steps": yaml.safe_load(STEPS)}
    written["publish"] = {name: {"from": name, "kind": "prompts"} for name in ("apart", "clusters", "covering")}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    out, _ = synthmill("run", "my.yaml", cwd=tmp_path)
    assert "below" in out or "not_picked" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    apart, clusters, covering = (
        pl.read_parquet(folder / "data" / name / "*.parquet") for name in ("apart", "clusters", "covering")
    )
    assert {"mine", "rating", "ifd", "tags", "refined", "pick"} <= set(apart.columns)
    assert sorted(apart["pick"]) == list(range(apart.height)) and 1 <= clusters.height <= 3 < covering.height
    asked = server.stats()["total"]
    _, err = synthmill("run", "my.yaml", cwd=tmp_path)
    assert "nothing to do" in err and server.stats()["total"] == asked


BLOCKS = [
    (page, block)
    for page in ("documents", "selecting")
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_every_block_of_the_guides_is_planned(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", [{"id": "a", "prompt": "Why?", "response": "So."}])
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "a.md").write_text("# Mills\nThey grind.")
    engines = dict.fromkeys(("teacher", "judge", "student"), "openai:model@http://127.0.0.1:9/v1")
    written = {"source": "prompts.jsonl", **yaml.safe_load(block), "engines": engines}
    planned = plan(read_settings(PipelineSettings, None, written))
    assert {step.step for step in planned.stages} >= yaml.safe_load(block)["steps"].keys()
