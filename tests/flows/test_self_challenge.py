"""The method `self-challenge`: groups, patterns, their check and their prompts by hand, and whole."""

from pathlib import Path

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.self_challenge import SelfChallengeSettings
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.generators.error_patterns import (
    CheckedPatterns,
    ErrorPatterns,
    Failure,
    FailureGroup,
    FailureGroups,
    Pattern,
    PatternPrompts,
    PatternRows,
    PatternText,
)
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

LOCK = {
    "stages": {
        "checked_patterns@1": "6cab5afcb713a89a",
        "error_patterns@1": "0e1bdaa544605258",
        "failure_groups@1": "05dc0db488a7c21b",
        "pattern_prompts@2": "9fde31e2f2a36eb9",
        "pattern_rows@1": "6961cdd7388a7c04",
    },
    "prompts": {
        "self_challenge/check": "42159e1ee0e5",
        "self_challenge/instances": "c4269f80ce82",
        "self_challenge/patterns": "a602ec482135",
    },
}

FAILURES = (Failure(prompt="How many r are in strawberry?", answer="Two.", reference="Three."),)
PATTERN = Pattern(id="p", pattern=PatternText(name="letters", description="Letters are counted."), failures=FAILURES)


def answer(**fields: object) -> list[Completion]:
    return [Completion(text=orjson.dumps(fields).decode())]


def verdicts(count: int) -> pl.DataFrame:
    ids = [f"row-{n}" for n in range(count)]
    return pl.DataFrame({"id": ids, "prompt": ids, "failed": [n % 3 > 0 for n in range(count)], "worst_answer": ids})


def test_groups_hold_failures_and_rows_that_are_added_change_one_group(tmp_path: Path) -> None:
    groups, drops = FailureGroups(size=3).apply(verdicts(60), tmp_path)
    members = [[failure["prompt"] for failure in row] for row in groups["failures"]]
    assert [prompt for group in members for prompt in group] == [f"row-{n}" for n in range(60) if n % 3] and max(
        map(len, members)
    ) <= 6
    assert {drop.reason for drop in drops} == {"passed", "in_group"} and len(drops) + groups.height == 60
    more, _ = FailureGroups(size=3).apply(verdicts(60)[20:], tmp_path)  # rows that go, as rows that are added
    assert len(set(more["id"]) - set(groups["id"])) <= 1
    assert FailureGroups().apply(verdicts(1), tmp_path)[0].is_empty()


def test_failures_have_patterns_each_name_once() -> None:
    steps = ErrorPatterns(count=2).steps(FailureGroup(id="g", failures=FAILURES))
    [request] = next(steps)
    assert (
        "Its answer: Two.\nA good answer: Three.\n" in request.messages[-1].content
        and "Name up to 2" in request.messages[-1].content
    )
    [again] = steps.send(answer(patterns=[{"name": "letters"}]))
    assert "no pattern with a name and a description" in again.messages[-1].content
    listed = [{"name": name, "description": "d"} for name in ("Letters", "letters", "tone", "more")]
    with pytest.raises(StopIteration) as done:
        steps.send(answer(patterns=listed))
    assert [pattern.name for pattern in done.value.value.pattern] == ["letters", "tone"]


def test_a_pattern_is_accepted_or_refused_with_a_reason() -> None:
    steps = CheckedPatterns(attempts=2).steps(PATTERN)
    next(steps)
    steps.send(answer(verdict="perhaps"))
    with pytest.raises(StopIteration) as done:
        steps.send(answer(verdict="refuse", remark="only a\ntopic"))
    assert not done.value.value.accepted and done.value.value.remark == "only a topic"


def test_prompts_of_a_pattern_are_new_and_different() -> None:
    steps = PatternPrompts(attempts=1).steps(PATTERN)
    next(steps)
    listed = ["How many r are in strawberry?", "Count the vowels of onomatopoeia.", "Count the vowels of onomatopoeia"]
    with pytest.raises(StopIteration) as done:
        steps.send(answer(prompts=[*listed, 7, "Which letter comes twice in llama?"]))
    assert done.value.value.prompt == (listed[1], "Which letter comes twice in llama?")
    assert done.value.value.origin == "letters"
    steps = PatternPrompts(attempts=1).steps(PATTERN)
    next(steps)
    with pytest.raises(Drop, match="shot_given_back"):
        steps.send(answer(prompts=listed[:1]))


def test_patterns_of_a_person(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "name": ["tone", " "], "description": ["It is rude.", "x"]})
    rows, drops = PatternRows().apply(frame, tmp_path)
    assert rows["pattern"].to_list() == [{"name": "tone", "description": "It is rude."}]
    assert [(drop.id, drop.reason) for drop in drops] == [("b", "empty_pattern")]
    with pytest.raises(InputError, match="expected a source of prompts, or patterns"):
        read_settings(SelfChallengeSettings, None, {})
    with pytest.raises(InputError, match="no role is called student; expected judge, target, teacher"):
        read_settings(SelfChallengeSettings, None, {"source": "in.jsonl", "engines": {"student": "a/b"}})


def test_patterns_are_looked_at_in_between(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    common = ["run", "self-challenge", "--workers", 0, "--set", f"engines.teacher={server.spec}", "--set", "passing=11"]
    common += ["--set", "dedup.layers=[exact]"]
    run = [*common, "--set", "source=in.jsonl", "--set", "per_group=1"]
    synthmill(*run, "--set", "per_pattern=0", cwd=tmp_path)
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    patterns = pl.read_parquet(folder / "data" / "*.parquet")
    assert {"name", "description", "accepted"} <= {*patterns.columns} and patterns.height == 3
    asked = server.stats()["total"]
    assert asked == 3 * 2 + 3 + 3  # answers and judgements, patterns, their check
    out, _ = synthmill(
        *common, "--set", f"patterns={folder}/data", "--set", "rounds=2", "--set", "check_patterns=false", cwd=tmp_path
    )
    assert "How hard the patterns are" in out and "failures_2" in out
    asked = server.stats()["total"]
    synthmill(*run, "--set", "check_patterns=false", cwd=tmp_path)
    assert server.stats()["total"] == asked + 3 * 3 and server.stats()["repeated"] == 0  # prompts, answers, judgements
