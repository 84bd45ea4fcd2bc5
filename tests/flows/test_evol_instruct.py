"""The method `evol-instruct`: operations, what is eliminated, generations, and whole."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from synthmill.flows.methods._new_prompts import as_chats
from synthmill.flows.methods.evol_instruct import (
    OPERATIONS,
    Evolution,
    Evolve,
    Generation,
    Generations,
    check_survives,
    read_evolved,
)
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction, to_arrow
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

SEED = Instruction(id="i", prompt="Why do birds draw circles?")


def evolve(answers: list[tuple[str, ...]], stage: Evolve, row: Instruction = SEED) -> Evolution:
    """Drive the steps: of each round, the prompt and perhaps the verdict and the response."""
    steps = stage.steps(row)
    asked = next(steps)
    try:
        for texts in answers:
            for batch in (texts[:1], texts[1:]):
                if batch:
                    assert len(asked) == len(batch)
                    asked = steps.send([Completion(text=text) for text in batch])
    except StopIteration as done:
        evolution: Evolution = done.value
        return evolution
    raise AssertionError(f"it asks for more: {asked}")


def test_each_round_evolves_the_last_prompt_that_survived() -> None:
    stage = Evolve(rounds=3, operations=("deepen",))
    evolution = evolve(
        [
            ("<begin> Why do seven birds draw circles? </end>", "not equal", "They watch."),
            ("<begin> Why do the seven birds draw circles? </end>", "Equal.", "They watch."),
            ("<begin> Why do seven birds draw circles over a mill? </end>", "not equal", "For the light."),
        ],
        stage,
    )
    assert [(each.round, each.level, each.fault) for each in evolution.generations] == [
        (1, 1, ""),
        (2, 2, "no_gain"),
        (3, 2, ""),
    ]
    rows, drops = Generations().apply(pl.DataFrame(to_arrow(Evolution, [evolution])), Path())
    assert rows["response"].to_list() == ["They watch.", "For the light."] and not drops
    assert rows["parents"].to_list() == [["i"], [rows["id"][0]]] and rows["level"].to_list() == [1, 2]
    assert set(rows["parent_id"]) == {evolution.id}


def test_what_was_thought_before_a_response_goes_on_with_it() -> None:
    generation = Generation(round=1, operation="deepen", level=1, prompt="Why?", response="So.", reasoning="Hm.")
    evolution = Evolution(id="e", parent_id="i", prompt="Why", system="Be brief.", generations=(generation,))
    rows, _ = Generations().apply(pl.DataFrame(to_arrow(Evolution, [evolution])), Path())
    chat = as_chats(rows)["messages"][0]
    assert [message["content"] for message in chat] == ["Be brief.", "Why?", "So."]
    assert [message["reasoning_content"] for message in chat] == [None, None, "Hm."]
    plain = evolution.model_copy(update={"generations": (generation.model_copy(update={"reasoning": None}),)})
    rows, _ = Generations().apply(pl.DataFrame(to_arrow(Evolution, [plain])), Path())
    assert "reasoning" not in rows.columns


def test_operations_are_drawn_by_id_and_broader_is_no_deeper() -> None:
    stage = Evolve()
    drawn = Counter(stage.operation(SEED.model_copy(update={"id": f"i{n}"}), 1) for n in range(500))
    assert drawn.keys() == set(OPERATIONS) and min(drawn.values()) > 70
    [ask] = next(Evolve(rounds=1, operations=("constrain",)).steps(SEED))
    assert "one more constraint" in ask.messages[-1].content and "deeper" not in ask.messages[-1].content
    broader = evolve(
        [("<begin> How do bees dance? </end>", "not equal", "In figures of eight.")],
        Evolve(rounds=1, operations=("broaden",)),
    )
    assert broader.generations[0].level == 0 and not broader.generations[0].fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<begin> Why do birds draw circles? </end>", "shot_given_back"),
        ("<begin> #Rewritten Prompt#: Why do birds fly? </end>", "copied_request"),
        ("<begin> // Why do birds draw circles! </end>", "no_gain"),
        ("No.", "no_prompt"),
    ],
)
def test_an_evolution_that_is_no_new_prompt_is_eliminated(text: str, fault: str) -> None:
    with pytest.raises(Drop, match=fault):
        read_evolved(Completion(text=text), SEED.prompt)
    evolution = evolve([(text,)], Evolve(rounds=1))
    rows, [drop] = Generations().apply(pl.DataFrame(to_arrow(Evolution, [evolution])), Path())
    assert rows.is_empty() and (drop.reason, drop.detail) == ("none_survived", fault)


def test_a_response_that_shows_a_bad_prompt_eliminates_it() -> None:
    gain, fine = Completion(text="not equal"), Completion(text="They watch.")
    check_survives(gain, fine)
    check_survives(gain, Completion(text="Sorry seems to be the hardest word. " + "la " * 80))
    for verdict, response, fault in (
        (Completion(text='"Equal."'), fine, "no_gain"),
        (gain, Completion(text="I am sorry, but I cannot."), "refused"),
        (gain, Completion(text="...  the, and!"), "empty_response"),
        (gain, Completion(text="", error="context_overflow: 9"), "context_overflow"),
    ):
        with pytest.raises(Drop, match=fault):
            check_survives(verdict, response)


def test_whole(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    run = ["run", "evol-instruct", "--workers", 0, "--set", f"engines.teacher={server.spec}", "--set", "rounds=2"]
    run += ["--set", "source=in.jsonl", "--set", "dedup.layers=[exact]"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "What survives" in out and "What was eliminated" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "data" / "*.parquet")
    assert rows["messages"].list.len().unique().to_list() == [2] and rows["round"].max() == 2
    asked = server.stats()["total"]
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    synthmill(*run, cwd=tmp_path)
    assert asked < server.stats()["total"] <= asked + 6  # one row more, two rounds of three calls
