"""Contamination: operators of short prompts, and every text of a row."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from synthmill.schemas.rows import Instruction, Pair, TextRow, to_arrow
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.lines import Line
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS
from synthmill.storage.plain_files.text_rows import TextSettings, texts_kind
from synthmill.tasks.dedup.contamination import (
    CleanInstructions,
    CleanPairs,
    CleanTurns,
    Contamination,
    WordIndex,
    turns_of,
)
from synthmill.tasks.running.stages import ingest
from tests.conftest import write_jsonl

LONG = "In how many ways can nine lamps stand on a shelf if two red ones must never touch?"


@pytest.mark.parametrize(
    ("benchmark", "same", "others"),
    [
        ("3+3=?", ("3 + 3 = ?", "3+3", '"3+3=?"', "3 + 3 ="), ("3-3=?", "3*3=?", "3/3=?", "33=?", "3+3!")),
        ("Is 9 > 4?", ("is 9 > 4", "**Is** 9 > 4?"), ("Is 9 < 4?", "Is 9 >= 4?", "Is 9, 4?")),
        ("What is 6 * 7?", ("What is 6 × 7?", "- What is 6*7", "`What is 6 * 7?`"), ("What is 6 + 7?", "What is 6^7?")),
        ("Simplify (a + b) * c", ("Simplify (a+b)*c.",), ("Simplify a + (b * c)", "Simplify (a - b) * c")),
        ("What is -8 plus 2?", ("what is −8 plus 2",), ("What is 8 plus 2?",)),
        ("4! = ?", ("4!", "4! =?"), ("4 = ?", "4?")),
        ("true && false", ("True && False",), ("true || false", "true false")),
        ("√ ∞", ("√∞",), ("∞", "")),
        ("Don't you know?", ("don’t you know", "“Don't you know?”", "Don't you know!"), ("Do you know?",)),
        ("Name a well-known bridge", ("name a well known bridge.", "Name a (well-known) bridge"), ()),
        ("1 * 2 * 3 * 4 * 5 * 6 * 7 * 8 * 9", ("Work out 1*2*3*4*5*6*7*8*9.",), ("1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9",)),
    ],
)
def test_operators_of_short_prompts_count_and_punctuation_does_not(
    benchmark: str, same: tuple[str, ...], others: tuple[str, ...]
) -> None:
    assert sorted(WordIndex(["something else", benchmark]).find((*same, *others))) == list(range(len(same)))


def test_of_prompts_that_differ_in_operators_the_same_is_named() -> None:
    turns = ["1 + 2 + 3 + 4 + 5 + 6 + 7 + 8", "1 - 2 - 3 - 4 - 5 - 6 - 7 - 8", "2 + 2", "2 - 2"]
    index = WordIndex(turns)
    assert {place: match.turn for place, match in index.find(turns).items()} == {0: 0, 1: 1, 2: 2, 3: 3}
    assert index.find([turns[3]])[0].evidence == "the same words: 2 -2"


def texts(**fields: Any) -> TextRow:
    row: TextRow = texts_kind().read(Line("line-1", fields), TextSettings(path="x.jsonl", text_column="messages"))
    return row


def test_every_message_of_a_chat_is_a_text_to_compare() -> None:
    chat = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    assert texts(messages=chat).turns == ("a", "b", "c", "d")
    assert texts(messages=["a", "b"]).turns == ("a", "b")
    assert texts(messages="a").turns == ("a",)


def test_texts_of_a_row_are_compared_one_by_one() -> None:
    history = [[{"role": "user", "content": "w"}, {"role": "assistant", "content": None}], None, []]
    frame = pl.DataFrame({"history": history, "question": ["x", None, "z"], "turns": [["y"], ["y"], None]})
    assert turns_of(frame, ("history", "question", "turns")) == (["w", "x", "y", "y", "z"], [0, 0, 0, 1, 2])
    assert turns_of(frame.head(0), ("history", "question")) == ([], [])


def checked(kind: type[Contamination], frame: pl.DataFrame, store: Store, folder: Path) -> list[str | None]:
    """The evidence of each row, or None."""
    benchmark = SourceSettings(path=str(write_jsonl(folder / "b.jsonl", [{"prompt": LONG}, {"prompt": "7 % 4"}])))
    manifest = ingest(store, benchmark, 2, "run", KNOWN_PROMPTS)
    stage = kind(benchmarks=(("b", manifest.key),), embedder="minilm", layers=("words",), found="mark")
    evidence: list[str | None] = stage.apply(frame, store.root)[0]["evidence"].to_list()
    return evidence


def test_flows_look_at_system_messages_and_answers(store: Store, tmp_path: Path) -> None:
    plain = Instruction(id="a", prompt="Hello")
    instructions = [plain, plain.model_copy(update={"id": "b", "system": f"Solve this. {LONG}"})]
    evidence = checked(CleanInstructions, pl.DataFrame(to_arrow(Instruction, instructions)), store, tmp_path)
    assert [one is not None for one in evidence] == [False, True]
    given = {"chosen": "Hi", "rejected": "Go", "cut": "max-min", "chosen_reward": 1.0, "rejected_reward": 0.0}
    pair = Pair(**plain.model_dump(), **given, chosen_index=0, rejected_index=1)
    changed = [{"prompt": "7 % 4"}, {"chosen": f"An exercise: {LONG}"}, {"rejected": "7 / 4"}, {"rejected": LONG}]
    pairs = [pair, *(pair.model_copy(update={"id": str(n), **one}) for n, one in enumerate(changed))]
    evidence = checked(CleanPairs, pl.DataFrame(to_arrow(Pair, pairs)), store, tmp_path)
    assert [one is not None for one in evidence] == [False, True, True, False, True]
    turns = pl.DataFrame({"id": ["a", "b"], "question": ["And then?", "7 % 4"]}).with_columns(
        history=pl.Series([[{"role": "user", "content": LONG}], []])
    )
    assert [one is not None for one in checked(CleanTurns, turns, store, tmp_path)] == [True, True]
