"""SELF-JUDGE under principles: majority, even votes by the mean, missing judgements; and rows that train a judge."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.judge_rows import BETTER, WORSE, JsftRows, Rationales, read_rationale
from synthmill.tasks.generators.prompt_rubrics import Compared
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.scorers.self_judge import PRINCIPLES, PrincipledScores, winner
from tests.tasks.judging_by_hand import CONTEXT, drive, pool, through_engine, values_of

LOCK = {
    "stages": {
        "jsft_rows@1": "8591b9c7f5aa3d91",
        "principled_scores@2": "bda4d1cd34f71a33",
        "rationales@1": "365e82d215512f39",
    },
    "prompts": {
        "self_judge/compare": "bacf4e16f9a6",
        "self_judge/rationale": "63ea747a6926",
        "self_judge/reasoned": "bb171b316607",
    },
}
PAIR = Compared(id="p", prompt="Why?", system="Be brief.", chosen="good", rejected="bad")


def by_principle(chances: dict[str, float], favours_a: float = 0.0) -> Any:
    """A judge that gives `good` these chances under the principles, by name, with a liking for A."""

    def reply(request: Request) -> Completion:
        text = request.messages[-1].content
        chance = next(chance for name, chance in chances.items() if name in text)
        of_a = (chance if "Response A:\ngood" in text else 1 - chance) + favours_a
        alternatives = {"A": math.log(of_a), "B": math.log(1 - of_a)}
        return Completion(text="A", logprobs=[["A", math.log(of_a), alternatives]])

    return reply


def test_most_principles_win_and_orders_are_averaged() -> None:
    stage = ScorerSettings.model_validate({"spec": "self-judge"}).stage(CONTEXT)
    assert isinstance(stage, PrincipledScores) and len(PRINCIPLES) == 3
    chances = {"Helpful": 0.6, "Honest": 0.6, "Harmless": 0.2}
    row, asked = drive(stage, pool("good", "bad"), by_principle(chances, favours_a=0.15))
    assert values_of(row) == {
        "self_judge_mean": (pytest.approx(1.4 / 3), pytest.approx(1.6 / 3)),
        "self_judge": (1.0, 0.0),
    }
    assert len(asked) == row.judgements == 6 and {request.sampling.logprobs for request in asked} == {20}


@pytest.mark.parametrize(
    ("chances", "wins"),
    [((0.6, 0.3), 0), ((0.9, 0.3), 1), ((0.5, 0.5), 0.5), ((0.51,), 1), ((0.5, 0.6), 1), ((0.4, 0.6), 0.5)],
)
def test_an_even_vote_goes_to_the_higher_mean(chances: tuple[float, ...], wins: float) -> None:
    assert winner(chances) == wins


def test_equal_texts_tie_unasked_and_no_principle_is_quality_as_such() -> None:
    row, asked = drive(PrincipledScores(), pool("a", "a"), by_principle({}))
    assert not asked and values_of(row)["self_judge"] == (0.5, 0.5)
    row, asked = drive(PrincipledScores(principles=()), pool("good", "bad"), by_principle({"all in all": 0.7}))
    assert len(asked) == 2 and values_of(row)["self_judge_mean"] == (pytest.approx(0.7), pytest.approx(0.3))


def test_reasons_come_before_a_verdict_where_they_are_wanted() -> None:
    stage = PrincipledScores(rationale=True, principles=("Brief.",), attempts=2)
    texts = {"A": "[RESULT] A", "B": "[RESULT] B"}
    row, asked = drive(
        stage,
        pool("good", "bad"),
        lambda r: Completion(text=texts["A" if "Response A:\ngood" in r.messages[-1].content else "B"]),
    )
    assert values_of(row)["self_judge"] == (1.0, 0.0) and asked[0].sampling.logprobs == 0
    row, asked = drive(stage, pool("good", "bad"), lambda _: through_engine("<think>[RESULT] A"))
    assert values_of(row)["self_judge"] == (None, None) and (row.judgements, row.unread, len(asked)) == (2, 2, 4)


def test_a_principle_without_a_judgement_has_no_vote() -> None:
    def reply(request: Request) -> Completion:
        silent = "Honest" in request.messages[-1].content or "Harmless" in request.messages[-1].content
        return Completion(text="neither") if silent else by_principle({"Helpful": 0.9})(request)

    row, _ = drive(PrincipledScores(), pool("good", "bad"), reply)
    assert values_of(row)["self_judge"] == (1.0, 0.0) and (row.judgements, row.unread) == (6, 4)
    for text in ("A or B", "C", "", "10"):
        row, _ = drive(PrincipledScores(), pool("good", "bad"), lambda _, text=text: Completion(text=text))
        assert values_of(row)["self_judge"] == (None, None) and row.unread == 6


def test_rationales_name_both_answers() -> None:
    rationale = f"{BETTER} is right, {WORSE} is not."
    row, [asked] = drive(Rationales(), PAIR, lambda _: Completion(text=rationale))
    assert (row.id, row.rationale, row.chosen) == ("p", rationale, "good")
    assert asked.messages[-1].content.index("good") < asked.messages[-1].content.index("bad")
    for completion in (Completion(text="A is better"), Completion(text=rationale, finish_reason="length")):
        with pytest.raises(Drop, match="no_rationale"):
            read_rationale(completion)


def test_a_pair_becomes_an_answer_and_verdicts_in_both_orders(tmp_path: Path) -> None:
    pairs = [
        {**PAIR.model_dump(), "rationale": f"{BETTER} beats {WORSE}."},
        {**PAIR.model_dump(), "id": "q", "rationale": None},
    ]
    rows, dropped = JsftRows(principles=("Brief.",)).apply(pl.DataFrame(pairs), tmp_path)
    assert not dropped and rows["parent_id"].to_list() == ["p"] * 3 + ["q"] * 3 and rows["id"].n_unique() == 6
    assert rows["task"].to_list() == ["answer", "judge", "judge"] * 2
    answer, forth, back = rows["messages"].to_list()[:3]
    assert [(m["role"], m["content"]) for m in answer] == [
        ("system", "Be brief."),
        ("user", "Why?"),
        ("assistant", "good"),
    ]
    assert "Response A:\ngood" in forth[1]["content"] and "Response B:\ngood" in back[1]["content"]
    assert forth[2]["content"] == "A\n\nResponse A beats Response B."
    assert back[2]["content"] == "B\n\nResponse B beats Response A."
    assert [messages[-1]["content"] for messages in rows["messages"].to_list()[4:]] == ["A", "B"]
    # what is trained is what the judge is asked
    _, asked = drive(
        PrincipledScores(principles=("Brief.",)),
        pool("good", "bad", prompt="Why?", system="Be brief."),
        by_principle({"Brief": 0.9}),
    )
    assert [message.content for message in asked[0].messages] == [message["content"] for message in forth[:2]]


def test_equal_answers_train_no_judge(tmp_path: Path) -> None:
    same = pl.DataFrame([{**PAIR.model_dump(), "rejected": "good "}])
    rows, dropped = JsftRows().apply(same, tmp_path)
    assert rows["task"].to_list() == ["answer"] and not dropped
    rows, dropped = JsftRows(answers=False).apply(same, tmp_path)
    assert not rows.height and [drop.reason for drop in dropped] == ["same_text"]
    assert "self_judge/compare" in JsftRows().identity({})["prompts"]
