"""The method `tapir`: gaps between teacher and student, balanced types of task, rounds, and whole."""

from pathlib import Path

import polars as pl
import pytest

from synthmill.flows.methods.tapir import BalancedTasks, ExpandTasks, Expansion, TapirSettings, shares_of
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.teacher_gaps import CurriculumRounds, Gap, HardPrompts, TeacherGaps, TypedPrompt
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

ROW = TypedPrompt(id="i", prompt="What is 12 x 12?", parents=("p",))


def completions(*texts: str) -> list[Completion]:
    return [Completion(text=text) for text in texts]


def test_a_gap_is_the_difference_of_two_scores() -> None:
    steps = TeacherGaps(attempts=2).steps(ROW)
    asked = next(steps)
    assert [request.role for request in asked] == ["teacher", "student"]
    [first, second, of_type] = steps.send(completions("144", "12"))
    assert "144" in first.messages[-1].content and "144" not in second.messages[-1].content
    assert of_type.choice and "math" in of_type.choice and {first.role, of_type.role} == {"judge"}
    [again] = steps.send(completions("9", "many", "Math"))
    assert "it was 'many'" in again.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send(completions("3"))
    gap: Gap = done.value.value
    assert (gap.gap, gap.task_type, gap.response, gap.student_response) == (6.0, "math", "144", "12")
    assert (gap.parents, gap.parent_id) == (("p",), "i")


def test_what_is_not_answered_or_not_judged_is_dropped_by_name() -> None:
    for sent, fault in (
        ([("144", " ")], "empty"),
        ([("144", "12"), ("11", "3", "math")], "bad_score"),
        ([("1", "2"), ("1", "3", "x")], "bad_type"),
    ):
        steps = TeacherGaps(attempts=1).steps(ROW)
        next(steps)
        with pytest.raises(Drop, match=fault):
            for texts in sent:
                steps.send(completions(*texts))


def test_easy_prompts_go_with_their_gap_and_hard_ones_get_rounds(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": list("abcde"), "gap": [5.0, 2.0, 1.5, 3.0, 2.0]})
    hard, drops = HardPrompts().apply(frame, tmp_path)
    assert [(drop.id, drop.reason, drop.detail) for drop in drops] == [("c", "too_easy", "gap 1.5")]
    rounds, _ = CurriculumRounds(rounds=2).apply(hard, tmp_path)
    assert dict(rounds.select("id", "round").iter_rows()) == {"b": 1, "e": 1, "d": 2, "a": 2}
    assert rounds["id"].to_list() == hard["id"].to_list()
    assert CurriculumRounds().apply(hard.clear(), tmp_path)[0].is_empty()


def test_expansions_have_the_shares_that_were_set(tmp_path: Path) -> None:
    assert shares_of(7, {"a": 2.0, "b": 1.0, "c": 0.0}) == {"a": 5, "b": 2, "c": 0}
    assert shares_of(7, {"a": 0.0}) == {"a": 0} and sum(shares_of(100, dict.fromkeys("abc", 1.0)).values()) == 100
    types = ["math", "math", "editing", "gossip"]
    frame = pl.DataFrame({"id": list("abcd"), "prompt": [f"task {n}" for n in range(4)], "task_type": types})
    rows, drops = BalancedTasks(count=9).apply(frame, tmp_path)
    assert rows["task_type"].value_counts().sort("count")["count"].to_list() == [3, 6]
    assert rows["parent_id"].value_counts().sort("count", "parent_id")["count"].to_list() == [3, 3, 3]
    assert [(drop.id, drop.reason) for drop in drops] == [("d", "not_drawn")]
    more, _ = BalancedTasks(count=12).apply(frame.reverse(), tmp_path)
    assert set(rows["id"]) < set(more["id"])
    with pytest.raises(ValueError, match="are no shares"):
        TapirSettings.model_validate({"source": "in.jsonl", "ratios": {"math": 0}})


def test_an_expansion_is_of_its_prompts_type() -> None:
    steps = ExpandTasks(attempts=1).steps(
        Expansion(id="e", parent_id="i", example="Add 1.", task_type="math", number=2)
    )
    [ask] = next(steps)
    assert "of the type: math" in ask.messages[-1].content and ask.sample == 200
    with pytest.raises(StopIteration) as done:
        steps.send(completions("<begin> Add 2 and 2. </end>"))
    assert done.value.value.parents == ("i",)


def test_whole(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    run = ["run", "tapir", "--workers", 0, "--set", f"engines.teacher={server.spec}", "--set", "source=in.jsonl"]
    run += ["--set", "least_gap=-9", "--set", "count=4", "--set", "overlap=1", "--set", "dedup.layers=[exact]"]
    _, err = synthmill(*run, cwd=tmp_path, expect=2)
    assert "teacher and student are both openai:local-model" in err
    run += ["--set", f"engines.student={server.spec.replace('local', 'small')}"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "Types of task" in out and "teacher_gaps-2" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "data" / "*.parquet")
    assert sorted(rows["round"].unique()) == [1, 2, 3] and rows["messages"].list.len().unique().to_list() == [2]
    assert {"tapir"} < set(rows["source"]) and {"gap", "task_type", "parents", "teacher_score"} <= set(rows.columns)
    assert server.stats()["total"] == 5 * 3 + 4 + 5 * 4
    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err
