"""Seed columns: shares as they were set, at every length; what was dealt stays when rows are added."""

import datetime
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.tasks.asking.attributes import Attributes
from synthmill.tasks.asking.dealing import Deal, words_of
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import run_stage
from synthmill.tasks.running.table_source import ingest_memory
from tests.conftest import write_jsonl

SEEDS = """
columns:
  topic: {categories: {physics: 2, biology: 1}}
  subtopic: {under: topic, categories: {physics: [optics, heat], biology: {cells: 3, plants: 1}}}
  level: [beginner, expert, master]
  odd: {categories: {a: 0.513, b: 0.3, c: 0.187, never: 0}}
  age: {integer: [18, 80]}
  price: {number: [0, 1], decimals: 2}
  day: {date: [2020-01-01, 2024-12-31]}
"""


def attributes(settings: str) -> Attributes:
    return Attributes.model_validate(yaml.safe_load(settings))


def dealt(stage: Attributes, rows: int, **columns: Any) -> tuple[pl.DataFrame, list[Dropped]]:
    frame = pl.DataFrame({"id": [f"row-{n:04}" for n in range(rows)], **columns})
    return stage.apply(frame, Path())


def most_off(values: pl.Series, weights: dict[str, float]) -> float:
    """By how many rows the count of a category is off its weight, at most."""
    counts, total = Counter(values.to_list()), sum(weights.values())
    return max(abs(counts[name] - len(values) * weight / total) for name, weight in weights.items())


@pytest.mark.parametrize("rows", [0, 1, 3, 12, 100, 1000, 1023])
def test_shares_are_as_they_were_set(rows: int) -> None:
    frame, dropped = dealt(attributes(SEEDS), rows)
    assert not dropped and frame.height == rows
    assert most_off(frame["topic"], {"physics": 2, "biology": 1}) < 1
    assert most_off(frame["level"], dict.fromkeys(("beginner", "expert", "master"), 1)) < 1
    physics, biology = (frame.filter(topic=topic)["subtopic"] for topic in ("physics", "biology"))
    assert most_off(physics, {"optics": 1, "heat": 1}) <= 0.5
    assert most_off(biology, {"cells": 3, "plants": 1}) <= 1
    assert most_off(frame["odd"], {"a": 0.513, "b": 0.3, "c": 0.187, "never": 0}) < max(1, 2 * rows.bit_count())
    assert frame["age"].is_between(18, 80).all() and frame["price"].is_between(0, 1).all()
    assert frame["day"].is_between(datetime.date(2020, 1, 1), datetime.date(2024, 12, 31)).all()
    if rows == 1000:
        assert frame["age"].unique().len() == 63 and abs(frame["age"].mean() - 49) < 0.1  # type: ignore[operator]
        assert frame["price"].round(2).equals(frame["price"])


@given(st.integers(1, 3000), st.integers(0, 1 << 62), st.floats(0, 1))
def test_every_prefix_has_its_share_below_any_point(rows: int, seed: int, point: float) -> None:
    shares = Deal.of(words_of(map(str, range(rows))), True, seed).shares()
    assert abs((shares < point).sum() - rows * point) < rows.bit_count()


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 1 << 62))
def test_cards_are_dealt_deck_by_deck(rows: int, count: int, seed: int) -> None:
    cards = np.bincount(Deal.of(words_of(map(str, range(rows))), True, seed).cards(count), minlength=count)
    assert len(cards) == count and cards.max() - cards.min() <= 1


def test_added_rows_change_nothing_before_them_and_seeds_do() -> None:
    before, after = (dealt(attributes(SEEDS), rows)[0] for rows in (1000, 1100))
    assert after.head(1000).equals(before)
    assert not dealt(attributes(SEEDS + "seed: 7"), 1000)[0].equals(before)


def test_values_keep_apart_from_the_order_of_rows_and_from_each_other() -> None:
    frame, _ = dealt(attributes("columns: {a: [x, y], b: [x, y], n: {number: [0, 1]}}"), 4096)
    even = frame.gather_every(2)
    for name in ("a", "b"):
        assert abs(sum(even[name] == "x") - 1024) < 100
    assert abs(sum(frame["a"] == frame["b"]) - 2048) < 150 and abs(even["n"].mean() - 0.5) < 0.02  # type: ignore[operator]


def test_independent_draws_go_by_the_row_alone() -> None:
    stage = attributes(SEEDS + "balanced: false")
    frame, _ = dealt(stage, 2000)
    shuffled = frame.select("id").sample(1500, shuffle=True, seed=1)
    assert (
        stage.apply(shuffled, Path())[0].sort("id").equals(frame.filter(pl.col("id").is_in(shuffled["id"].implode())))
    )
    assert 20 < most_off(frame["topic"], {"physics": 2, "biology": 1}) + 20 < 100


def test_categories_under_a_column_of_the_rows_own() -> None:
    stage = attributes("columns: {kind: {under: field, categories: {a: [x, y], b: [z]}}}")
    frame, [drop] = dealt(stage, 5, field=["a", "b", "c", "a", "b"])
    assert frame["id"].to_list() == ["row-0000", "row-0001", "row-0003", "row-0004"]
    assert sorted(frame["kind"].to_list()) == ["x", "y", "z", "z"]
    assert (drop.id, drop.reason, drop.detail) == ("row-0002", "no_category", "field: c")


def test_persons_are_rows_of_a_file_whose_content_is_in_the_key(tmp_path: Path) -> None:
    people = [{"name": f"p{n}", "age": n, "traits": ["kind"]} for n in range(5)]
    path = write_jsonl(tmp_path / "people.jsonl", people)
    stage = attributes(f"columns: {{person: {{persons: '{path}'}}, name: {{persons: '{path}', column: name}}}}")
    frame, _ = dealt(stage, 10)
    assert set(Counter(frame["name"].to_list()).values()) == {2}
    assert set(frame["person"].struct.field("name")) == {person["name"] for person in people}
    planned = stage.output_columns(pa.schema([("id", pa.string())]))
    assert planned.field("person").type.field("age").type == pa.int64() and planned.field("name").type == pa.string()
    (other := tmp_path / "elsewhere").mkdir()
    write_jsonl(other / "people.jsonl", people)
    moved = attributes(f"columns: {{person: {{persons: '{other}/people.jsonl'}}}}")
    here = attributes(f"columns: {{person: {{persons: '{path}'}}}}")
    assert moved.identity({}) == here.identity({})
    write_jsonl(path, people[1:])
    assert attributes(f"columns: {{person: {{persons: '{path}'}}}}").identity({}) != here.identity({})
    with pytest.raises(InputError, match="has changed since it was planned"):
        dealt(here, 3)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("{categories: [yes, no]}", "in quotes"),
        ("{categories: [a, a]}", "'a' is named twice"),
        ("{categories: {a: -1}}", "is no list of texts, and has no weights"),
        ("{categories: {a: 0}}", "has no weights"),
        ("{integer: [3, 1]}", "write the smaller one first"),
        ("{integer: [1, 3], number: [0, 1]}", "it says integer and number"),
        ("{}", "it says nothing; expected one of categories"),
        ("{integer: [1, 3], decimals: 2}", "decimals means nothing to integer"),
        ("{under: topic, categories: {x: [a]}}", "it has no categories for y; found x"),
        ("{under: number, categories: {x: [a]}}", "which has no categories itself"),
        ("{under: later, categories: {x: [a]}}", "write that column before it"),
    ],
)
def test_bad_settings_are_named(column: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        attributes(f"columns: {{topic: [x, y], number: {{integer: [1, 2]}}, new: {column}, later: [z]}}")


def test_columns_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    known = pa.schema([("id", pa.string()), ("field", pa.string())])
    with pytest.raises(InputError, match="the rows have a column 'field' already"):
        attributes("columns: {field: [a]}").check_columns(known)
    with pytest.raises(InputError, match="under 'feild', which is no column; did you mean 'field'"):
        attributes("columns: {new: {under: feild, categories: {a: [b]}}}").check_columns(known)
    with pytest.raises(InputError, match=r"nobody\.jsonl is not there"):
        attributes(f"columns: {{who: {{persons: '{tmp_path}/nobody.jsonl'}}}}")


def test_a_run_deals_to_rows_from_nothing_and_keeps_what_it_dealt(store: Store) -> None:
    stage = attributes(SEEDS + "rows_per_part: 10")
    source_columns = pa.schema([pa.field("id", pa.string())])
    pool = InProcess(store, "run", threading.Event())
    parts = []
    try:
        for rows in (25, 30):
            source = ingest_memory(store, pa.table({"id": [f"row-{n:04}" for n in range(rows)]}), 10, "run")
            manifest = run_stage(store, Planned(stage, {}, source.key), source, pool, "run")
            table = read_artifact(store, manifest)
            assert table.num_rows == rows and table.column_names == stage.output_columns(source_columns).names
            parts.append([seal.key for seal in manifest.parts])
    finally:
        pool.close()
    assert parts[0][:2] == parts[1][:2] and parts[0][2] != parts[1][2]
