"""Judgements that cannot be read: counted by every judge, and never read as another number."""

from typing import Any

import pytest

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, SynthmillError
from synthmill.schemas.multifaceted import JudgedRow
from synthmill.schemas.pools import JudgedPool, PolicyAnswer, ScoredPool
from synthmill.schemas.rows import to_arrow
from synthmill.storage.artifacts import Store, seal_part, write_manifest
from synthmill.tasks.engines.replies import token_logprobs
from synthmill.tasks.generators.multifaceted.bench import Judged
from synthmill.tasks.running.stages import columns_of
from synthmill.tasks.scorers.direct import HELPFUL, DirectScores
from synthmill.tasks.scorers.expected import ExpectedScores, expected_digit
from synthmill.tasks.scorers.judgements import Judgements, judgements_of, note_unread
from synthmill.tasks.scorers.judges import Judge
from synthmill.tasks.scorers.labels import chances_of
from synthmill.tasks.scorers.pairwise import PairwiseScores
from synthmill.tasks.scorers.tournament import TournamentScores
from synthmill.tasks.scorers.verdicts import parse_score
from tests.tasks.test_judging import ROW

DIGITS = "0123456789"
JUDGES = [
    (DirectScores(label="d", evaluations=2, attempts=2), 4),
    (DirectScores(label="r", evaluations=1, attempts=3, rubric=HELPFUL), 2),
    (ExpectedScores(label="e"), 2),
    (PairwiseScores(label="p"), 2),
    (PairwiseScores(label="pr", rubric=HELPFUL, attempts=2), 2),
    (TournamentScores(label="t"), 2),
]


def answer(n: int, text: str) -> PolicyAnswer:
    return PolicyAnswer(answer_index=n, text=text, finish_reason="stop", completion_tokens=1)


def judged(stage: Judge, completion: Completion) -> JudgedPool:
    """A pool of two answers, every judgement of which is this."""
    steps = stage.steps(ScoredPool(id="a", prompt="Why?", answers=(answer(0, "one"), answer(1, "two"))))
    asked = next(steps)
    while True:
        try:
            asked = steps.send([completion for _ in asked])
        except StopIteration as end:
            row: JudgedPool = end.value
            return row


@pytest.mark.parametrize(("stage", "count"), JUDGES, ids=lambda value: getattr(value, "label", value))
def test_every_judge_counts_what_could_not_be_read(stage: Judge, count: int) -> None:
    row = judged(stage, Completion(text="I would rather\nnot say"))
    assert (row.judgements, row.unread, row.first_unread) == (count, count, "I would rather not say")
    assert row.scores[-1].values == (None, None)
    lost = judged(stage, Completion(text="", finish_reason="error", error="context_overflow: too long"))
    assert (lost.judgements, lost.unread, lost.first_unread) == (count, count, "context_overflow: too long")
    digit = "3" if isinstance(stage, DirectScores | ExpectedScores) else "B"
    read = judged(
        stage, Completion(text=digit if stage.prompt().endswith(("digit", "compare")) else f"[RESULT] {digit}")
    )
    assert (read.judgements, read.unread, read.first_unread) == (count, 0, "")
    assert None not in read.scores[-1].values


def test_a_bench_counts_them_too() -> None:
    steps = Judged(runs=1, attempts=1).steps(ROW)
    next(steps)
    steps.send([Completion(text="an answer")])
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="[RESULT] 2"), Completion(text="x " * 200 + "[RESULT] two")])
    row: JudgedRow = done.value.value
    assert (row.judgements, row.unread) == (2, 1)
    assert row.first_unread.startswith("x x") and row.first_unread.endswith("x [RESULT] two")
    assert len(row.first_unread) < 220


def sealed(store: Store, *rows: JudgedPool, **identity: Any) -> Manifest:
    table = to_arrow(JudgedPool, rows)
    seal = seal_part(store, "expected_scores", "k", table, (), ids_in=[row.id for row in rows])
    return write_manifest(
        store, Manifest(stage="expected_scores", key="k", identity=identity, columns=columns_of(table), parts=(seal,))
    )


def pool(row_id: str, judgements: int, unread: int, first: str = "") -> JudgedPool:
    counts = {"judgements": judgements, "unread": unread, "first_unread": first}
    return JudgedPool(id=row_id, prompt="Why?", answers=(), **counts)


def test_some_unread_are_a_note_and_all_are_an_error(store: Store) -> None:
    engines = {"engines": {"judge": "m"}}
    some = sealed(store, pool("a", 4, 0), pool("b", 4, 1, "Hm"), pool("c", 4, 2, "Oh"), **engines)
    assert judgements_of(store, some) == Judgements(12, 3, "Hm")
    assert note_unread(store, some) == "expected_scores: 3 of 12 judgements could not be read; the first: 'Hm'"
    assert note_unread(store, sealed(store, pool("a", 4, 0), **engines)) == ""
    assert note_unread(store, sealed(store, pool("a", 0, 0), **engines)) == ""  # every answer was empty
    with pytest.raises(SynthmillError, match=r"^4 of 4 judgements could not be read; the first: '<think>'; choose"):
        note_unread(store, sealed(store, pool("a", 4, 4, "<think>"), **engines))
    assert note_unread(store, sealed(store, pool("a", 4, 4, "<think>"))) == ""  # of a stage after the judge


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ({"token": "6", "logprob": 0.0, "top_logprobs": [{"token": "2", "logprob": None}]}, 6.0),
        ({"token": "6", "logprob": None, "top_logprobs": []}, 6.0),
        ({"token": "6", "logprob": None, "top_logprobs": [{"token": "6", "logprob": -1.0}]}, 6.0),
        ({"token": "6", "logprob": None, "top_logprobs": [{"token": "2", "logprob": -1.0}]}, 2.0),
        ({"token": "6", "top_logprobs": None}, 6.0),
        ({"token": "6"}, 6.0),
        ({"token": "6", "logprob": -0.5, "top_logprobs": [{"token": "2"}]}, 6.0),
        ({"token": "6", "logprob": 1e9}, 6.0),
    ],
)
def test_a_null_logprob_is_none(token: dict[str, Any], expected: float) -> None:
    logprobs = token_logprobs({"logprobs": {"content": [token]}})
    assert expected_digit(Completion(text="6", logprobs=logprobs)) == pytest.approx(expected)


def test_logprobs_that_earlier_runs_stored_as_null_are_read() -> None:
    assert expected_digit(Completion(text="6", logprobs=[["6", None, {"6": None, "7": None}]])) == 6
    assert expected_digit(Completion(text="", logprobs=[["6", None, None]])) is None


@pytest.mark.parametrize(
    "text", ["10", "8.5", "8,5", "8/10", "7-9", "7 – 9", "7 or 8", "7 to 8", "-3", "8 out of 10", "9 of 10", ""]
)
def test_more_than_a_digit_is_no_digit(text: str) -> None:
    assert chances_of(Completion(text=text), DIGITS) == {}
    tokens = [[part, 0.0, {}] for part in (text[:1], text[1:2], text[2:]) if part]
    assert chances_of(Completion(text=text, logprobs=tokens), DIGITS) == {}


def test_an_article_is_no_letter() -> None:
    for text in ("A good answer", "A or B", "A/B", "A and B", "Answer"):
        assert chances_of(Completion(text=text), "AB") == {}
    for text in ("A is better", "A.", "A, because", "(A)", "A"):
        assert chances_of(Completion(text=text), "AB") == {"A": 1, "B": 0}


@pytest.mark.parametrize(
    "text", ["[RESULT] .5", "[RESULT] −5", "[RESULT] –5", "[RESULT] 4th", "Rating: 9/10", "Rating: 4.5"]
)
def test_a_number_with_a_mark_before_or_an_ending_is_no_score(text: str) -> None:
    with pytest.raises(Drop):
        parse_score(text)


def test_a_rating_is_a_score() -> None:
    assert parse_score("Good. Total rating: 4") == ("Good. Total rating: 4", 4)
    assert parse_score("Fine. Rating: 10/10", 0, 10)[1] == 10


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>", "<end_of_turn>"])
def test_the_token_that_ends_an_answer_is_no_part_of_it(end: str) -> None:
    tokens = tuple((token, -0.1, {}) for token in ("A", end))
    assert chances_of(Completion(text="A", logprobs=tokens), "AB") == {"A": 1.0, "B": 0.0}
    assert not chances_of(
        Completion(text="A\nB", logprobs=(tokens[0], ("\n", 0.0, {}), ("B", 0.0, {}), tokens[1])), "AB"
    )
