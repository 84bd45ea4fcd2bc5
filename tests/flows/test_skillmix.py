"""The method `skillmix`: its stages by hand, its mixes, and whole, from the model alone and from instructions."""

from pathlib import Path

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.skillmix import (
    DataSkills,
    Example,
    Examples,
    Mix,
    SkillMixes,
    TopicList,
    TopicSkills,
    conversations,
)
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction, to_arrow
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

LOCK = {
    "stages": {
        "data_skills@1": "f708efef3a617af8",
        "skill_mixes@1": "a4b2c8d8a24da91f",
        "skillmix_examples@1": "6a721d143be36437",
        "topic_skills@1": "5d7359e15b3a4391",
    },
    "prompts": {
        "skillmix/data_skills": "575e008a8ad5",
        "skillmix/example": "25e6ddcb9c80",
        "skillmix/query_types": "5bf2addf142a",
        "skillmix/skills": "730f9873244b",
        "skillmix/topics": "654259bdc0ba",
    },
}


def answer(**fields: object) -> list[Completion]:
    return [Completion(text=orjson.dumps(fields).decode())]


def test_topics_then_skills_then_types_of_query() -> None:
    steps = TopicSkills(count=3).steps(TopicList(id="l", number=2))
    [topics] = next(steps)
    assert "List 3 different topics" in topics.messages[-1].content and topics.sample == 200
    [skills] = steps.send(answer(topics=["sailing", "Sailing ", "tax"]))
    assert "- sailing\n- tax" in skills.messages[-1].content.replace("Sailing", "sailing")
    steps.send(answer(skills=["weighing two options"]))
    with pytest.raises(StopIteration) as done:
        steps.send(answer(query_types=["asking for a plan"]))
    assert len(done.value.value.topics) == 2 and done.value.value.query_types == ("asking for a plan",)


def test_skills_of_an_instruction() -> None:
    steps = DataSkills(attempts=2).steps(Instruction(id="i", prompt="Why do birds draw circles?"))
    next(steps)
    [again] = steps.send(answer(skills=["explaining"], query_type=" "))
    assert "it named no query_type" in again.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send(answer(skills=["explaining"], query_type="asking why"))
    assert done.value.value.skills == ("explaining",) and done.value.value.parent_id == "i"


def test_shirkers_are_dropped_unless_they_are_wanted() -> None:
    mix = Mix(id="m", skills=("a", "b"), query_type="asking why")
    lazy = answer(instruction="Why?", response="Because.")
    steps = Examples(attempts=1).steps(mix)
    next(steps)
    with pytest.raises(Drop, match="too_short: the response had 1 words"):
        steps.send(lazy)
    steps = Examples(attempts=1, fewest_words=0).steps(mix)
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send(lazy)
    example: Example = done.value.value
    assert example.skills == ("a", "b") and example.response == "Because."


def test_what_was_thought_before_an_example_goes_on_with_it() -> None:
    steps = Examples(attempts=1, fewest_words=0).steps(Mix(id="m", skills=("a", "b"), query_type="asking why"))
    next(steps)
    [reply] = answer(instruction="Why?", response="Because.")
    with pytest.raises(StopIteration) as done:
        steps.send([reply._replace(reasoning="Hm.")])
    example: Example = done.value.value
    thinks, plain = (
        conversations(pl.DataFrame(to_arrow(Example, [row])))["messages"].to_list()
        for row in (example, example.model_copy(update={"reasoning": None}))
    )
    assert [message["reasoning_content"] for message in thinks[0]] == [None, "Hm."]
    assert plain[0] == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def test_every_list_leads_as_many_mixes_and_mixes_have_k_skills(tmp_path: Path) -> None:
    skills = [[f"skill {n} {place}" for place in range(4)] for n in range(3)]
    frame = pl.DataFrame({"id": ["a", "b", "c"], "skills": skills, "query_types": [["x"], ["y"], ["x", "z"]]})
    mixes, drops = SkillMixes(count=10, k=3).apply(frame, tmp_path)
    assert not drops and mixes["id"].n_unique() == 10
    assert sorted(mixes["parent_id"].value_counts()["count"]) == [3, 3, 4]
    assert all(len(set(row)) == 3 for row in mixes["skills"])
    own = dict(zip("abc", skills, strict=True))
    assert all(row["skills"][0] in own[row["parent_id"]] for row in mixes.to_dicts())
    assert set(mixes["query_type"]) <= {"x", "y", "z"}
    assert SkillMixes(count=10, k=3).apply(frame.reverse(), tmp_path)[0].equals(mixes)
    fewer, drops = SkillMixes(count=2, k=3).apply(frame, tmp_path)
    assert fewer.equals(mixes.head(2)) and [drop.reason for drop in drops] == ["not_drawn"]
    assert SkillMixes(count=2, k=99).apply(frame, tmp_path)[0]["skills"].list.len().to_list() == [12, 12]


def test_from_the_model_alone_and_from_instructions(tmp_path: Path, server: ChatServer) -> None:
    run = ["run", "skillmix", "--workers", 0, "--set", f"engines.teacher={server.spec}", "--set", "fewest_words=1"]
    run += ["--set", "lists=3", "--set", "count=8", "--set", "dedup.layers=[exact]"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "Skills that are combined most" in out and "user: " in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "data" / "*.parquet")
    assert rows["messages"].list.len().unique().to_list() == [2] and set(rows["skills"].list.len()) == {2}
    asked = server.stats()["total"]
    assert asked >= 3 + 8  # equal questions are asked once
    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err and server.stats()["total"] == asked
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    out, _ = synthmill(*run, "--set", "source=in.jsonl", "--preview", 2, cwd=tmp_path)
    assert "data_skills" in out and "topic_skills" not in out
