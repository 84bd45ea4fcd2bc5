"""Mixtures: shares, caps and temperatures; what rows that are added move. And how diverse vectors are."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.schemas.errors import InputError
from synthmill.schemas.recall import Recall
from synthmill.storage.published.rows import repetition_of
from synthmill.tasks.tables.mixture import Mixture, quotas_of
from synthmill.tasks.vectors.vendi import vendi_of_blocks, vendi_score
from tests.tasks.test_tables import run

NOWHERE = Path("nowhere")


def rows(**sizes: int) -> pl.DataFrame:
    groups = [name for name, size in sizes.items() for _ in range(size)]
    ids = [f"{name}-{place}" for name, size in sizes.items() for place in range(size)]
    return pl.DataFrame({"id": ids, "kind": groups})


def mixed(frame: pl.DataFrame, **settings: Any) -> dict[str, int]:
    """Rows by group; every row is accounted for."""
    kept, _ = run(Mixture(by="kind", **settings), frame.to_arrow())
    counts = pl.DataFrame(kept)["kind"].value_counts()
    return dict(sorted(counts.iter_rows()))


def test_shares_caps_and_temperatures() -> None:
    frame = rows(a=80, b=20, c=4)
    assert mixed(frame, count=26) == {"a": 20, "b": 5, "c": 1}
    assert mixed(frame, shares={"a": 1, "b": 1}) == {"a": 20, "b": 20}  # as many as keep the shares exact
    assert mixed(frame, shares={"a": 3, "b": 1}, count=40) == {"a": 30, "b": 10}
    assert mixed(frame, shares={"a": 1, "b": 1}, count=60) == {"a": 40, "b": 20}  # b has no more: a fills up
    assert mixed(frame, shares={"a": 1, "b": 1}, count=60, short="shrink") == {"a": 20, "b": 20}
    assert mixed(frame, temperature=1000, count=12) == {"a": 4, "b": 4, "c": 4}
    assert mixed(frame, temperature=2, count=35) == {"a": 21, "b": 10, "c": 4}  # c is smaller than its share
    assert mixed(frame, cap=10) == {"a": 10, "b": 10, "c": 4}
    assert mixed(frame, count=1000) == {"a": 80, "b": 20, "c": 4}
    assert mixed(frame.with_columns(kind=pl.lit(None, pl.String)), count=3) == {None: 3}
    with pytest.raises(InputError, match="no row has kind 'd'; it is one of a, b, c"):
        mixed(frame, shares={"d": 1})
    for wrong in ({"shares": {"a": 0}}, {"shares": {"a": 1}, "temperature": 2}, {"cap": 0}):
        with pytest.raises(ValueError):
            Mixture(by="kind", **wrong)


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 9)), min_size=1, max_size=6), st.integers(0, 200))
def test_quotas_are_exactly_so_many_and_within_their_groups(groups: list[tuple[int, float]], count: int) -> None:
    limits, weights = (np.array(side, np.float64) for side in zip(*groups, strict=True))
    count = min(count, int(limits.sum()))
    quotas = quotas_of(limits, weights, count)
    assert quotas.sum() == count and (quotas >= 0).all() and (quotas <= limits).all()


def test_added_rows_move_few() -> None:
    before = rows(a=60, b=60)
    stage = Mixture(by="kind", shares={"a": 1, "b": 1}, count=40)
    first = {row for row in run(stage, before.to_arrow())[0]["id"].to_pylist()}
    added = pl.concat([pl.DataFrame({"id": ["a-x", "a-y", "b-x"], "kind": ["a", "a", "b"]}), before])
    second = {row for row in run(stage, added.to_arrow())[0]["id"].to_pylist()}
    assert len(first - second) <= 3 and second - first <= {"a-x", "a-y", "b-x"}
    assert second == set(run(stage, added.reverse().to_arrow())[0]["id"].to_pylist())  # the order changes nothing


def test_the_vendi_score_counts_different_vectors() -> None:
    basis = np.eye(4, 8, dtype=np.float32)
    assert vendi_score(basis) == pytest.approx(4)
    assert vendi_score(np.repeat(basis, 50, axis=0)) == pytest.approx(4)  # copies add nothing
    assert vendi_score(basis[:1]) == pytest.approx(1)
    assert vendi_score(np.zeros((3, 8), np.float32)) == vendi_score(np.zeros((0, 8))) == 0
    draw = np.random.default_rng(0).normal(size=(40, 8))
    unit = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / 40)  # the definition, n x n
    shares = eigenvalues[eigenvalues > 1e-12]
    assert vendi_score(unit) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert vendi_of_blocks([unit[:7], np.zeros((2, 8)), unit[7:]]) == pytest.approx(vendi_score(unit))


def test_repetition_before_and_after() -> None:
    notes: dict[str, Any] = {"rows": 200, "kept": 150, "by_layer": {"exact": 40, "words": 10}}
    assert repetition_of(notes) == (
        "repetition: 25.00% of the rows before (20.00% exact, 5.00% words), none that these layers find after"
    )
    notes |= {"by_layer": {"exact": 40, "meaning": 10}, "recall": Recall(0.8, 0.7, 0.9, 30, 100)._asdict()}
    assert repetition_of(notes).endswith("(20.00% exact, 5.00% meaning), about 1.67% after")  # 10 x (1 / 0.8 - 1) / 150
