"""Rewards, cuts and duplicates: known right answers and properties."""

import math
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.schemas.texts import normalised
from synthmill.storage.artifacts import Store
from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs
from synthmill.tasks.dedup.duplicates import UniquePairs
from synthmill.tasks.frames import RunContext
from synthmill.tasks.scorers.r3 import R3, length_incentive, repetition_penalty, response_of
from synthmill.tasks.texts.words import tokens_of
from synthmill.tasks.vectors.embeddings import embed, embedder_name

NOWHERE = Path("/nowhere")


def pool(row_id: str, rewards: list[float], texts: list[str] | None = None) -> dict[str, object]:
    texts = texts or [f"text {n}" for n in range(len(rewards))]
    answers = [
        {"answer_index": 10 * n, "text": t, "finish_reason": "stop", "completion_tokens": 1}
        for n, t in enumerate(texts)
    ]
    return {
        "id": row_id,
        "prompt": "p",
        "system": "s",
        "source": "",
        "note": "",
        "answers": answers,
        "rewards": rewards,
    }


def cut(*pools: dict[str, object]) -> tuple[list[dict[str, object]], dict[str, str]]:
    kept, dropped = MaxMinPairs().apply(pl.DataFrame(pools, schema_overrides={"system": pl.String}), NOWHERE)
    return kept.to_dicts(), {row.id: row.reason for row in dropped}


def test_an_answer_that_a_filter_broke_off_is_not_chosen() -> None:
    broken = pool("a", [9, 1, 2])
    broken["answers"][0]["finish_reason"] = "content_filter"  # type: ignore[index]
    alone = pool("b", [9, 1])
    alone["answers"][0]["finish_reason"] = "SAFETY"  # type: ignore[index]
    [pair], dropped = cut(broken, alone)
    assert (pair["chosen_index"], pair["rejected_index"]) == (20, 10)
    assert dropped == {"b": "content_filter"}


def test_r3_oracles() -> None:
    assert repetition_penalty(tokens_of("one two three")) == 1
    assert repetition_penalty(tokens_of("a b")) == 1
    assert repetition_penalty(tokens_of("a a a a")) == 0.5
    assert length_incentive(tokens_of("Hello, world! It's")) == 7 / 100  # Hello , world ! It ' s
    assert length_incentive(tokens_of("a " * 200)) == 2 * length_incentive(tokens_of("a " * 100))
    assert response_of("kept\n\n\n\ngone") == "kept"
    assert response_of("kept\n\n--\ngone") == "kept"
    assert response_of("kept\nUser: gone") == "kept"
    assert response_of("all") == "all"


def test_r3_prefers_relevant_longer_less_repetitive_answers(store: Store) -> None:
    good = "Bread rises because yeast turns sugar into gas, which the gluten of the dough holds back in bubbles."
    texts = [
        good,
        "Bread rises.",
        "bread rises " * 9,
        "The stock market fell by two percent on Monday, after a quiet week of trade in Asia.",
    ]
    frame = pl.DataFrame([pool("a", [0.0] * 4, texts) | {"prompt": "Why does bread rise?"}]).drop("rewards")
    stage = R3(embedder="minilm")
    scored, dropped = stage.apply(frame, store.root)
    rewards = scored["rewards"][0].to_list()
    assert dropped == []
    assert rewards[0] == max(rewards)
    assert min(rewards) >= 0
    assert math.isclose(rewards[1], rewards[0] * 0, abs_tol=0.05)  # three tokens bring little
    assert stage.bound(RunContext()).identity({})["settings"]["embedder_identity"] == embedder_name("minilm")


def test_a_text_is_embedded_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed("minilm", ["one", "two", "one"], store.root)
    assert first.shape == (3, 384)
    assert (first[0] == first[2]).all()
    assert abs(float((first[0] ** 2).sum()) - 1) < 1e-5
    monkeypatch.setattr("synthmill.tasks.vectors.embeddings.load_embedder", lambda _: pytest.fail("embedded again"))
    assert (embed("minilm", ["two", "one"], store.root) == first[[1, 0]]).all()


def test_max_min_and_its_drops() -> None:
    kept, dropped = cut(
        pool("a", [1.0, 3.0, 2.0]),
        pool("one", [1.0]),
        pool("equal", [2.0, 2.0]),
        pool("nan", [1.0, float("nan"), 2.0]),
        pool("same", [1.0, 2.0], ["x", "x"]),
    )
    assert [(row["parent_id"], row["chosen_index"], row["rejected_index"]) for row in kept] == [("a", 10, 0)]
    assert dropped == {"one": "n<2", "equal": "equal_reward", "nan": "nan_reward", "same": "same_text"}


@given(st.lists(st.integers(0, 5).map(float), min_size=2, max_size=8))
def test_max_min_ties_go_to_the_lowest_index(rewards: list[float]) -> None:
    kept, dropped = cut(pool("a", rewards))
    if min(rewards) == max(rewards):
        assert dropped == {"a": "equal_reward"}
    else:
        [pair] = kept
        assert pair["chosen_index"] == 10 * rewards.index(max(rewards))
        assert pair["rejected_index"] == 10 * rewards.index(min(rewards))
        assert pair["chosen_reward"] > pair["rejected_reward"]  # type: ignore[operator]


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=6, unique=True), st.integers(1, 8), st.integers(-5, 5))
def test_max_min_does_not_mind_shift_and_scale(rewards: list[float], scale: int, shift: int) -> None:
    rewards = [round(reward, 3) for reward in rewards]
    before, _ = cut(pool("a", rewards))
    after, _ = cut(pool("a", [reward * scale + shift for reward in rewards]))
    assert [row["chosen_index"] for row in before] == [row["chosen_index"] for row in after]


def verdicts(prompts: dict[str, str]) -> dict[str, str | None]:
    frame = pl.DataFrame({"id": list(prompts), "system": [None] * len(prompts), "prompt": list(prompts.values())})
    marked, dropped = UniquePairs(columns=("system", "prompt"), layers=("exact",)).apply(frame, NOWHERE)
    assert marked.height == len(prompts)  # a cut deletes nothing
    assert dropped == []
    return dict(marked.select("id", "duplicate_of").iter_rows())


def test_exact_duplicates_are_seen_through_case_width_and_space_in_any_script() -> None:
    found = verdicts(
        {
            "a": "Straße  im\nDorf",
            "b": "strasse im dorf",
            "c": "ＡＢＣ",
            "d": "abc",
            "e": "你好",
            "f": "再见",
            "g": "你好 ",
        }
    )
    assert found == {"a": None, "b": "a", "c": None, "d": "c", "e": None, "f": None, "g": "e"}
    assert normalised("") == ""


def test_the_order_of_the_input_changes_no_verdict() -> None:
    prompts = {f"{n:02}": f"question {n % 7}" for n in range(30)}
    shuffled = list(prompts.items())
    random.Random(1).shuffle(shuffled)
    assert verdicts(prompts) == verdicts(dict(shuffled))
