"""WildBench's judges by hand: checklists merged, scores rescaled, five choices, the margin; replies without verdict."""

import json
from typing import Any

import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext
from synthmill.tasks.scorers.wildbench import (
    WildBenchRewards,
    WildBenchScores,
    choice_of,
    merged,
    questions_of,
    rescaled,
    score_of,
    with_margin,
)
from tests.tasks.test_scorers import drive, pool, said, shown, values

FIRST = ["Does it name photons?", "Is it brief?", "Is it correct?", "Does it cite?", "Is it in English?"]
SECOND = ["Is it brief?", "Does it name the photons?", "Does it avoid jargon?", "Is there an example?", "Is it kind?"]
LOCK = {
    "stages": {"wildbench_rewards@1": "b0b3845f31499f04", "wildbench_scores@1": "b4910fec21ec266d"},
    "prompts": {
        "wildbench/checklist": "a2966bcdf8f9",
        "wildbench/choice": "17c5d14f2ba7",
        "wildbench/score": "fb1e72a6de64",
    },
}


def listed(questions: list[str]) -> str:
    return "\n".join(f"{n}. {question}" for n, question in enumerate(questions, 1))


def reply(request: Any) -> Completion:
    if request.role in ("writer", "second_writer"):
        return said(listed(FIRST if request.role == "writer" else SECOND))
    body = shown(request)
    if "Response A:" in body:
        first, second = body.split("Response A:\n")[1].split("\n\nResponse B:\n")
        better = len(first) > len(second)
        return said(json.dumps({"reason of A>B": "x", "choice": "A+" if better else "B+"}))
    return said(json.dumps({"strengths": "s", "weaknesses": "w", "score": "8" if body.endswith("good") else "3"}))


def test_two_checklists_are_merged_in_turn() -> None:
    assert merged([FIRST, SECOND]) == [
        "Does it name photons?",
        "Is it brief?",
        "Is it correct?",
        "Does it avoid jargon?",
        "Does it cite?",
        "Is there an example?",
        "Is it in English?",
        "Is it kind?",
    ]
    assert len(merged([[f"Is {n} there?" for n in "abcdefghij"], [f"Why {n} of all?" for n in "klmno"]]) or []) == 10
    assert merged([]) is None


@pytest.mark.parametrize("mark", ["- ", "* ", "1. ", "2) ", "", "- [ ] ", "  • "])
def test_questions_are_read_in_every_form(mark: str) -> None:
    assert questions_of(said("Here they are:\n" + "\n".join(mark + question for question in FIRST))) == FIRST


def test_too_few_questions_are_asked_for_again() -> None:
    with pytest.raises(Drop, match="no_checklist: it had 1 questions"):
        questions_of(said("- Is it good?\n- Yes."))
    assert questions_of(said(error="engine_timeout", finish_reason="error")) is None


def test_scores_are_rescaled_and_the_answer_stands_last() -> None:
    seen: list[str] = []

    def noted(request: Any) -> Completion:
        seen.append(shown(request))
        return reply(request)

    row, counts = drive(WildBenchScores(), pool("good", "bad", ""), noted)
    assert values(row) == [6.0, -4.0, -8.0] and counts == [2, 2]
    assert seen[2].endswith("Response:\ngood") and "- Does it avoid jargon?" in seen[2]
    assert seen[2][: seen[2].rindex("good")] == seen[3][: seen[3].rindex("bad")]
    assert [rescaled(score) for score in (1, 5, 10)] == [-8, 0, 10]


def test_one_writer_is_enough_and_none_is_not() -> None:
    def first_only(request: Any) -> Completion:
        return said("no") if request.role == "second_writer" else reply(request)

    row, counts = drive(WildBenchScores(attempts=1), pool("good"), first_only)
    assert values(row) == [6.0] and counts == [2, 1] and (row.judgements, row.unread) == (3, 1)
    row, counts = drive(WildBenchScores(attempts=1), pool("good", ""), lambda _: said("no"))
    assert values(row) == [None, -8.0] and counts == [2]
    assert (row.unread, row.first_unread) == (2, "no")


def test_slight_wins_of_much_longer_answers_tie() -> None:
    short, long = "short", "long" * 150
    row, counts = drive(WildBenchRewards(), pool(short, long), reply)
    assert values(row) == [0, 0] and counts == [2, 2]
    row, _ = drive(WildBenchRewards(margin=None), pool(short, long), reply)
    assert values(row) == [-0.5, 0.5]
    with pytest.raises(StopIteration) as end:
        next(WildBenchRewards().steps(pool("same", "same")))
    assert values(end.value.value) == [0, 0]
    cases = [(0.5, 501, 0, 0.0), (0.5, 500, 0, 0.5), (1.0, 900, 0, 1.0), (-0.5, 0, 501, 0.0), (-0.5, 900, 0, -0.5)]
    assert [with_margin(reward, first, second, 500) for reward, first, second, _ in cases] == [c[3] for c in cases]


def test_a_judge_that_always_names_a_makes_ties() -> None:
    def first(request: Any) -> Completion:
        return said('{"choice": "A++"}') if request.role == "judge" else reply(request)

    row, _ = drive(WildBenchRewards(), pool("one", "two", "three"), first)
    assert values(row) == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"strengths": "a \\"score\\": no", "score": "7"}', 7),
        ('```json\n{"strengths": "x", "score": 7}\n```', 7),
        ('{"score": "[10]"}', 10),
        ('{"score": "8/10"}', 8),
        ("{'score': '3'}", 3),
        ('{"score": "7"} and again {"score": "7"}', 7),
        ('{"score": "7"} no, {"score": "8"}', None),
        ('<think>{"score": 9}</think> {"score": 2}', None),
        ('{"score": "7-8"}', None),
        ('{"score": "7.5"}', None),
        ('{"score": "seven"}', None),
        ('{"score": "0"}', None),
        ('{"score": "11"}', None),
        ('{"score": "8/100"}', None),
        ("it is good", None),
        ("", None),
    ],
)
def test_what_is_a_score(text: str, score: int | None) -> None:
    if score is None:
        with pytest.raises(Drop):
            score_of(said(text))
    else:
        assert score_of(said(text)) == score


def test_what_is_a_choice() -> None:
    texts = ("A++", "a+", "A=B", "B+", "[B++]", "A = B")
    assert [choice_of(said(f'{{"choice": "{text}"}}')) for text in texts] == [1, 0.5, 0, -0.5, -1, 0]
    for text in ("A", "A or B", "C++", "A++ or A+", ""):
        with pytest.raises(Drop):
            choice_of(said(f'{{"choice": "{text}"}}'))
    assert choice_of(said(error="engine_timeout")) is None


def test_the_leaderboards_rewards() -> None:
    """pairwise-gpt4t-K=500.json of allenai/WildBench@d6b8dca: wins, slight ones, ties and losses, and the reward."""
    for much, slight, ties, lost, lost_much, total, reward in (
        (102, 234, 340, 133, 124, 1024, 0.02783203125),
        (13, 26, 216, 50, 696, 1024, -0.6787109375),
    ):
        choices = ["A++"] * much + ["A+"] * slight + ["A=B"] * ties + ["B+"] * lost + ["B++"] * lost_much
        rewards = [choice_of(said(f'{{"choice": "{choice}"}}')) or 0.0 for choice in choices]
        assert sum(rewards) / total == reward


def test_the_settings_name_the_writers() -> None:
    settings = ScorerSettings.model_validate({"spec": "wildbench", "writers": ["big", "judge"]})
    assert settings.roles == ("judge", "big")
    stage = settings.stage(ScoringContext("minilm"))
    assert stage.needs_roles() == ("judge", "big")  # type: ignore[union-attr]
    pairs = ScorerSettings.model_validate({"spec": "wildbench-pairs", "margin": None})
    assert pairs.label == "wildbench_pairs"
