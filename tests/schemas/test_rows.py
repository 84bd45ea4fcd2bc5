"""Rows survive the way through Arrow, and ids follow from content."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.schemas.errors import Drop, EngineError, InputError, StoreError
from synthmill.schemas.multifaceted import Value, WithSets
from synthmill.schemas.rows import (
    Answer,
    Instruction,
    Pool,
    Row,
    arrow_schema,
    arrow_type,
    from_arrow,
    to_arrow,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.tuples(text, st.none() | text, st.lists(text, max_size=3)), max_size=5))
def test_rows_survive_arrow(given_rows: list[tuple[str, str | None, list[str]]]) -> None:
    rows = [
        Pool(
            id=str(n),
            prompt=prompt,
            system=system,
            answers=tuple(
                Answer(answer_index=i, text=one, finish_reason="length", completion_tokens=i)
                for i, one in enumerate(said)
            ),
        )
        for n, (prompt, system, said) in enumerate(given_rows)
    ]
    assert from_arrow(Pool, to_arrow(Pool, rows)) == rows


def test_a_child_has_its_own_id_and_takes_over_what_it_shares() -> None:
    parent = Instruction(id="a", prompt="p", system="s", source="here")
    value = Value(dimension="style", subdimension="tone", preference="dry", description="dry wit", origin="seed")
    child = WithSets.child_of(parent, "preference_sets", split="train", sets=((value,),))
    assert (child.prompt, child.system, child.source, child.parent_id) == ("p", "s", "here", "a")
    assert child.id == WithSets.child_of(parent, "preference_sets", split="train", sets=()).id
    assert child.id != WithSets.child_of(parent, "elsewhere", split="train", sets=()).id


def test_rows_refuse_what_they_do_not_know_and_cannot_change() -> None:
    with pytest.raises(ValidationError):
        Instruction(id="a", prompt="p", unknown=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Instruction(id="a", prompt="p").prompt = "other"  # type: ignore[misc]


def test_a_field_without_an_arrow_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="no Arrow type"):
        arrow_type(dict[str, int])
    assert [field.name for field in arrow_schema(Row)] == ["id", "parent_id"]


def test_errors_survive_pickling_as_ray_does_it() -> None:
    for kind in (Drop, EngineError, InputError, StoreError):
        error = pickle.loads(pickle.dumps(kind("reason: detail")))
        assert type(error) is kind
        assert error.message == "reason: detail"
    assert (Drop("reason: detail").reason, Drop("reason: detail").detail) == ("reason", "detail")
