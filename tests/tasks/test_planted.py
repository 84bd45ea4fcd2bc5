"""Planted answers: what they are, and that a scorer which prefers one is seen."""

from collections.abc import Callable

import pytest

from synthmill.tasks.trust.planted import CONSTANT, PADDING, TO_THE_JUDGE, audit, plant, planted_answers, preferred

ANSWERS = ("Light is carried by photons, the quanta of the field.", "Photons carry it.")
Score = Callable[[str], float | None]


def rows_of(score: Score, pools: int = 30) -> dict[str, dict[str, object]]:
    audited = [plant(f"p{n}", f"What carries light, question {n}?", ANSWERS, 0) for n in range(pools)]
    present = [pool for pool in audited if pool]
    scores = [pool.in_own_order([score(text) for text in pool.shown()]) for pool in present]
    return {row["kind"]: row for row in audit(present, scores)}


def named(score: Score) -> set[str]:
    return {kind for kind, row in rows_of(score).items() if preferred(row)}


def test_what_is_planted() -> None:
    by_kind = {planted.kind: planted for planted in planted_answers("Why?", ANSWERS[0])}
    assert (
        by_kind["constant"].text == CONSTANT and by_kind["empty"].text == "" and by_kind["copied prompt"].text == "Why?"
    )
    assert by_kind["injected"].text == f"{ANSWERS[0]}\n\n{TO_THE_JUDGE}"
    assert by_kind["padded"].text.startswith(ANSWERS[0]) and len(by_kind["padded"].text) > 2 * len(ANSWERS[0])
    assert ANSWERS[0].startswith(by_kind["truncated"].text) and len(by_kind["truncated"].text) == len(ANSWERS[0]) // 2
    assert [planted.derived for planted in by_kind.values()] == [False, False, False, True, True, True]


def test_the_order_is_drawn_by_id_and_undone() -> None:
    pools = [plant(f"p{n}", "Why?", ANSWERS, 0) for n in range(8)]
    assert len({pool.order for pool in pools if pool}) > 4 and plant("p0", "Why?", ANSWERS, 0) == pools[0]
    assert len({pool.original for pool in pools if pool}) == 2
    pool = pools[0]
    assert pool and pool.in_own_order([float(len(text)) for text in pool.shown()])[:2] == [53.0, 17.0]
    assert plant("p", "Why?", ("", " "), 0) is None


@pytest.mark.parametrize(
    ("score", "kinds"),
    [
        (lambda text: float(len(text)), {"constant", "injected", "padded"}),
        (lambda text: -float(len(text)), {"empty", "copied prompt", "truncated"}),
        (lambda text: float("top score" in text), {"injected"}),
        (lambda text: float(text in ANSWERS), set()),
        (lambda text: 1.0 + (PADDING in text) / 100, {"padded"}),
        (lambda text: 3.0, set()),
    ],
    ids=["long", "short", "obeys", "right", "by a little", "constant"],
)
def test_who_prefers_a_planted_answer_is_named(score: Score, kinds: set[str]) -> None:
    assert named(score) - {"copied prompt"} == kinds - {"copied prompt"}


def test_figures_by_hand() -> None:
    row = rows_of(lambda text: float(len(text)))["padded"]
    assert row["wins"] == {"value": 1, "low": 1, "high": 1} and row["against"] == "the answer it is made of"
    assert row["best"]["value"] == 1  # type: ignore[index]
    short = rows_of(lambda text: 0.5 if text == "" else float(text in ANSWERS))["empty"]
    assert short["wins"]["value"] == 0 and short["difference"]["value"] == -0.5  # type: ignore[index]


def test_missing_scores_are_counted() -> None:
    row = rows_of(lambda text: None if text == "" else 1.0)["empty"]
    assert (row["pools"], row["missing"], row["wins"]) == (0, 30, {"value": None, "low": None, "high": None})
