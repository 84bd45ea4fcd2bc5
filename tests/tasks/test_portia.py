"""PORTIA: texts in aligned parts, and comparisons that are made again where their orders disagree."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.schemas.calls import Completion, Request
from synthmill.tasks.scorers.portia import PortiaScores, agree
from synthmill.tasks.texts.aligned_parts import boundaries_of, split_alike, split_evenly
from tests.tasks.judging_by_hand import drive, pool, values_of

LOCK = {"stages": {"portia_scores@2": "44a65f19318c26ad"}, "prompts": {"portia/compare": "fd92275b0ea1"}}
FIRST = "Light is made of photons. They have no mass. Nothing is as fast."
SECOND = "Photons make light. A photon lacks mass. It is the fastest of all."


def test_texts_are_split_after_sentences_and_lines_but_not_in_code() -> None:
    assert split_evenly(FIRST, 3) == ["Light is made of photons.", "They have no mass.", "Nothing is as fast."]
    assert split_evenly("a\nb\nc", 3) == ["a", "b", "c"]
    assert split_evenly("One sentence only.", 2) is None and split_evenly("", 2) is None
    code = "Look:\n```\nx = 1.\ny = 2.\n```\nThat is all. Really."
    inside = range(code.index("```") + 1, code.rindex("```") + 1)
    assert boundaries_of(code) and not set(boundaries_of(code)) & set(inside)


@given(st.text(st.sampled_from("ab .!?\n"), max_size=80), st.integers(2, 5))
def test_even_parts_are_the_whole_text(text: str, count: int) -> None:
    parts = split_evenly(text, count)
    if parts is not None:
        assert len(parts) == count and "".join("".join(parts).split()) == "".join(text.split())


def test_parts_that_are_alike_stand_together() -> None:
    first = "Cats purr. Dogs bark. Dogs bite and dogs bark loudly. Fish swim."
    second = "Cats purr softly. Cats purr at night. Dogs bark and bite. Fish swim in water."
    pair = split_alike(first, second, 3)
    assert pair == (
        ["Cats purr.", "Dogs bark. Dogs bite and dogs bark loudly.", "Fish swim."],
        ["Cats purr softly. Cats purr at night.", "Dogs bark and bite.", "Fish swim in water."],
    )
    assert split_alike("One.", second, 2) is None


def letter(chance: float) -> Completion:
    return Completion(text="A" if chance > 0.5 else "B")


def is_split(request: Request) -> bool:
    return "part 1 of 3" in str(request.messages[-1].content)


def starts_with(request: Request, text: str) -> bool:
    return f"Response A:\n{text}" in str(request.messages[-1].content)


def test_what_agrees_is_not_asked_again() -> None:
    row, requests = drive(PortiaScores(), pool(FIRST, SECOND), lambda r: letter(float(starts_with(r, FIRST))))
    assert len(requests) == 2
    assert values_of(row) == {"portia": (1, 0), "portia_before": (1, 1), "portia_after": (1, 1)}


def test_a_biased_judge_is_asked_again_in_parts() -> None:
    def reply(request: Request) -> Completion:
        content = str(request.messages[-1].content)
        if not is_split(request):
            return Completion(text="A")  # always the first
        return letter(float(content.index("Light is made of") < content.index("Photons make")))

    row, requests = drive(PortiaScores(), pool(FIRST, SECOND), reply)
    assert [is_split(request) for request in requests] == [False, False, True, True]
    parts = str(requests[2].messages[-1].content)
    order = [parts.index(words) for words in ("Light is made", "Photons make", "They have", "A photon", "Nothing")]
    assert order == sorted(order)
    assert values_of(row) == {"portia": (1, 0), "portia_before": (0, 0), "portia_after": (1, 1)}


def test_a_judge_that_always_says_the_same_stays_a_tie() -> None:
    row, requests = drive(PortiaScores(), pool(FIRST, SECOND), lambda _: Completion(text="A"))
    assert len(requests) == 6
    assert values_of(row) == {"portia": (0.5, 0.5), "portia_before": (0, 0), "portia_after": (0, 0)}
    row, requests = drive(PortiaScores(), pool("short", "brief"), lambda _: Completion(text="A"))
    assert len(requests) == 2  # too few sentences to split


def test_unread_comparisons_are_counted() -> None:
    row, _ = drive(PortiaScores(), pool(FIRST, SECOND), lambda _: Completion(text="A or B"))
    assert values_of(row)["portia"] == (None, None) and (row.judgements, row.unread) == (2, 2)


def test_the_page_says_how_often_orders_agreed() -> None:
    scores = [{"scorer": "portia_before", "values": [0, 1, None]}, {"scorer": "portia_after", "values": [1, 1, None]}]
    [figure] = PortiaScores().figures([pl.DataFrame({"scores": [scores]})])
    assert figure.rows == (("before", "50.0%"), ("after", "100.0%"))
    assert PortiaScores().figures([]) == []


SAME = [((0.9, 0.6), True), ((0.1, 0.4), True), ((0.9, 0.1), False), ((0.5, 0.9), False)]


@pytest.mark.parametrize(("orders", "same"), SAME)
def test_agreement_of_orders(orders: tuple[float, float], same: bool) -> None:
    assert agree(orders) == same
