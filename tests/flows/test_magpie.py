"""The method `magpie`: turns that a model writes, how they are rated, and whole, by a server's raw completions."""

from pathlib import Path

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.magpie import OpenTurns
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Instruction, Row
from synthmill.tasks.generators.rated_prompts import RatePrompts, RatingLimits
from synthmill.tasks.generators.respond import Respond
from tests.command import synthmill
from tests.conftest import ChatServer

PROMPT = Instruction(id="i", prompt="Why do birds draw circles?")


def test_a_turn_is_drawn_by_its_row_and_a_further_draw_reads_no_fault() -> None:
    steps = OpenTurns(system="You do sums.", begins="What", attempts=3).steps(Row(id="r"))
    [first] = next(steps)
    assert [message.content for message in first.messages] == ["You do sums.", "What"] and first.open_turn
    [second] = steps.send([Completion(text=" is", finish_reason="length")])
    assert second.messages == first.messages and second.sample == first.sample + 1 and second.asked_again
    steps.send([Completion(text="", error="engine_error: 500")])
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text=" is 1 + 1?\n")])
    turn: Question = done.value.value
    assert (turn.prompt, turn.source, turn.parent_id) == ("What is 1 + 1?", "magpie", "r")
    [other] = next(OpenTurns().steps(Row(id="s")))
    assert abs(other.sample - first.sample) > 1000 and [message.role for message in other.messages] == ["user"]


@pytest.mark.parametrize(
    ("text", "fault"), [("Sure! It is 2.", "answers"), ("  ", "no_prompt"), ("la " * 60, "repeats_itself")]
)
def test_what_is_no_turn_is_dropped_by_name(text: str, fault: str) -> None:
    steps = OpenTurns(attempts=1).steps(Row(id="r"))
    next(steps)
    with pytest.raises(Drop, match=fault):
        steps.send([Completion(text=text)])


def test_a_rating_is_on_the_scales_or_asked_for_again() -> None:
    steps = RatePrompts(attempts=2).steps(PROMPT)
    [ask] = next(steps)
    assert "very poor, poor, average, good, excellent" in ask.messages[-1].content and ask.schema_
    fields = {"quality": "Good", "difficulty": "easy", "category": "reasoning"}
    [again] = steps.send([Completion(text=orjson.dumps({**fields, "quality": "so so"}).decode())])
    assert "its quality was 'so so'" in again.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text=orjson.dumps(fields).decode())])
    assert (done.value.value.id, done.value.value.quality) == ("i", "good")


def test_low_ratings_go_by_name(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        [("a", "good", "hard"), ("b", "average", "hard"), ("c", "excellent", "very easy")],
        schema=["id", "quality", "difficulty"],
        orient="row",
    )
    kept, drops = RatingLimits(least_difficulty="easy").apply(frame, tmp_path)
    assert kept["id"].to_list() == ["a"]
    assert {drop.id: (drop.reason, drop.detail) for drop in drops} == {
        "b": ("low_quality", "average"),
        "c": ("low_difficulty", "very easy"),
    }


def test_a_response_is_asked_for_again_where_it_is_empty() -> None:
    steps = Respond(attempts=2).steps(PROMPT)
    next(steps)
    [again] = steps.send([Completion(text=" ")])
    assert again.asked_again
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text=" They watch.")])
    assert (done.value.value.id, done.value.value.response) == ("i", "They watch.")


def test_whole(tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "run.yaml").write_text(
        f"engines: {{teacher: {{spec: '{server.spec}', user_turn: '<user>'}}, judge: '{server.spec}'}}\n"
        "least_quality: very poor\noverlap: 1\nworkers: 0\ndedup: {layers: [exact]}\n"
    )
    run = ("run", "magpie", "--config", "run.yaml")
    out, _ = synthmill(*run, "--set", "count=4", cwd=tmp_path)
    assert "What is asked" in out and server.stats()["total"] == 3 * 4
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "data" / "*.parquet")
    assert rows.height == 4 and rows["messages"].list.len().to_list() == [2] * 4
    assert {"quality", "difficulty", "category", "source"} <= set(rows.columns)
    synthmill(*run, "--set", "count=6", cwd=tmp_path)
    assert server.stats()["total"] == 3 * 6  # two rows more cost two rows' calls
