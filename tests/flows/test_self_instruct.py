"""The method `self-instruct`: its sets of examples, what is wrong with a prompt, and whole, in rounds."""

from pathlib import Path

import polars as pl
import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.novel_prompts import NovelPrompts
from synthmill.tasks.generators.written_prompts import MixedShots, ShotSet, WrittenPrompts
from synthmill.tasks.texts.prompt_faults import check_prompt, marked_prompt, repeated_share, scripts_of
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl

SEEDS = pl.DataFrame({"id": [f"s{n}" for n in range(20)], "prompt": [f"Name task {n} of mine." for n in range(20)]})


def sets_of(frame: pl.DataFrame = SEEDS, **settings: int) -> dict[str, tuple[str, ...]]:
    rows, _ = MixedShots(**settings).apply(frame, Path())
    return dict(zip(rows["number"], map(tuple, rows["parents"]), strict=True))


def test_sets_have_six_seeds_and_two_written_ones_and_seeds_until_there_are_any(tmp_path: Path) -> None:
    sets, drops = MixedShots(count=3).apply(SEEDS, tmp_path)
    assert sets["parents"].list.n_unique().to_list() == [8, 8, 8] and sets["id"].n_unique() == 3
    assert len(drops) == 20 - sets["parent_id"].n_unique() and drops[0].reason == "not_drawn"
    assert sets_of(count=5) == {**sets_of(count=5), **sets_of(count=3)}
    assert sets_of(SEEDS.head(3), count=1)[0] and len(sets_of(SEEDS.head(3), count=1)[0]) == 3
    assert MixedShots(count=2).apply(SEEDS.clear(), tmp_path)[0].is_empty()
    lengths = {len(parents) for parents in sets_of(count=60, seeds=3, most_seeds=5, written=0).values()}
    assert lengths == {3, 4, 5}
    with pytest.raises(ValueError, match="most_seeds is 2, below seeds"):
        MixedShots(seeds=3, most_seeds=2)


def test_a_seed_more_changes_only_the_sets_that_it_is_in() -> None:
    before, after = sets_of(SEEDS.head(19), count=40), sets_of(count=40)
    changed = {number for number, parents in after.items() if set(parents) != set(before[number])}
    assert changed == {number for number, parents in after.items() if "s19" in parents} and 0 < len(changed) < 30
    assert sets_of(SEEDS.reverse(), count=40) == after


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("Here is one.", "no_prompt"),
        ("9. Why?\n10. When?", "no_prompt"),
        ("<begin> I'm not sure what you're asking about, but I can help. </end>", "answers"),
        ("<begin> Write a letter to [Your Name] about birds. </end>", "placeholder"),
        ("<begin>  A  SEED </end>", "shot_given_back"),
        ("<begin> Sure! Paris is the capital. </end>", "answers"),
        ("<begin> Here is a new task: sing. </end>", "answers"),
        (f"<begin> {'name the seven birds ' * 9} </end>", "repeats_itself"),
        (
            "<begin> Explain the 河流和磨坊之间的桥梁为什么这么安静以及水如何流动 of this river and its mill </end>",
            "mixes_languages",
        ),
    ],
)
def test_what_is_no_prompt_is_named_and_asked_again(answer: str, fault: str) -> None:
    steps = WrittenPrompts(attempts=2).steps(ShotSet(id="x", examples=("a seed",), parents=("s",), round=1, number=3))
    [ask] = next(steps)
    assert "1. <begin> a seed </end>" in ask.messages[-1].content and ask.sample > 0
    [again] = steps.send([Completion(text=answer)])
    assert "could not be used" in again.messages[-1].content and again.asked_again
    with pytest.raises(Drop, match=fault):
        steps.send([Completion(text=answer)])


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! Here is it:\n9. <begin> Why? </end>",
        "<begin> Why? </begin>",
        "<begin>Why?<end>",
        "<begin> Why?",
        "1. <begin> a seed </end>\n2. <begin> Why? </end>\n3. <begin> When? </end>",
        "<begin> ... </end> <begin> Why? </end>",
        "Between <begin> and </end>: <begin> Why? </end>",
        "9. Why?\n",
    ],
)
def test_marks_are_read_as_small_models_write_them(answer: str) -> None:
    assert marked_prompt(Completion(text=answer), ("A  seed",)) == "Why?"


@pytest.mark.parametrize("answer", ["<begin> Why?", "9. Why?\n", "Sure!", "1. <begin> a", "<begin> Why? </en"])
def test_a_cut_prompt_is_none(answer: str) -> None:
    with pytest.raises(Drop, match="cut_prompt"):
        marked_prompt(Completion(text=answer, finish_reason="length"))


def test_a_prompt_that_was_closed_before_the_cut_is_whole() -> None:
    answer = "<begin> ... </end> <begin> Why? </end>\n\nThis task is hard, because <begin> it"
    assert marked_prompt(Completion(text=answer, finish_reason="length")) == "Why?"


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [("and", "no_prompt"), ("None.", "no_prompt"), ("Hey there! As an AI", "answers"), ("Sorry, but I", "answers")],
)
def test_what_is_no_prompt(prompt: str, fault: str) -> None:
    with pytest.raises(Drop, match=fault):
        check_prompt(prompt)


def test_prompts_that_only_look_wrong_stay() -> None:
    check_prompt("Here is my code; why does it fail? print(1)")
    check_prompt("I can't sleep. What helps?")
    check_prompt("请把这句话翻译成英文，并解释为什么：ありがとうございます、今日はいい天気ですね")
    check_prompt(
        "Translate: 今日はいい天気ですね、散歩に行きましょう today", ["Was heißt 今日はいい天気ですね auf Deutsch?"]
    )
    assert repeated_share("word " * 100) > 0.9 and repeated_share("a b c a b c") == 0
    assert scripts_of("a 1 !") == [] and scripts_of("Почему птицы рисуют круги") == ["Cyrillic"]


def test_prompts_too_like_others_go_and_the_others_keep_their_columns(tmp_path: Path) -> None:
    texts = [
        "Tell me why the quiet river turns",
        "Tell me why the quiet river turns left",
        "Sing",
        "Count these birds!",
    ]
    frame = pl.DataFrame({"id": list("abcd"), "prompt": texts, "round": [1, 1, 1, 2]})
    kept, drops = NovelPrompts().apply(frame, tmp_path)
    assert kept.to_dicts() == [frame.row(0, named=True), frame.row(3, named=True)]
    assert {drop.id: drop.reason for drop in drops} == {"b": "too_alike", "c": "length"}
    assert "with: Tell me why the quiet river turns" in next(drop.detail for drop in drops if drop.id == "b")


def test_whole_in_rounds(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", SEEDS.head(6).to_dicts())
    run = [
        "run",
        "self-instruct",
        "--workers",
        0,
        "--set",
        f"engines.teacher={server.spec}",
        "--set",
        "source=in.jsonl",
    ]
    run += ["--set", "per_round=4", "--set", "overlap=1", "--set", "dedup.layers=[exact]", "--set", "keywords=[]"]
    out, _ = synthmill(*run, "--set", "count=6", cwd=tmp_path)
    assert "Prompts of each round" in out and "novel_prompts-2" in out and server.stats()["total"] == 6
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "data" / "*.parquet").sort("round", "id")
    assert rows["round"].to_list() == [1] * 4 + [2] * 2 and rows["source"].unique().to_list() == ["self-instruct"]
    written, shown = set(rows["parent_id"]), rows.filter(pl.col("round") == 2)["parents"].to_list()
    assert written and all(len(set(parents) & set(SEEDS["id"])) == 6 and len(parents) == 8 for parents in shown)
    _, err = synthmill(*run, "--set", "count=6", cwd=tmp_path)
    assert "nothing to do" in err
    synthmill(*run, "--set", "count=9", cwd=tmp_path)
    assert server.stats()["total"] == 9  # three prompts more are three calls more
