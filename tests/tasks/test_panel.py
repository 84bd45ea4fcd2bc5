"""Panels: weighted means and medians, majorities of pairs, ties and their breaker, voices that are missing."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.flows.methods.preferences.settings import PreferencesSettings
from synthmill.schemas.errors import InputError
from synthmill.tasks.scorers.panel import PanelScores, scaled, weighted_median
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.tasks.judging_by_hand import CONTEXT

LOCK = {
    "stages": {
        "panel_scores@1": "537320d39bd75878",
    },
    "prompts": {},
}


def panel(scores: dict[str, Any], **settings: Any) -> list[float | None]:
    """The panel's score of a pool's answers."""
    weights = dict.fromkeys(scores, 1.0)
    written = {"kind": "panel", "weights": weights, **settings}
    stage = ScorerSettings.model_validate(written).stage(CONTEXT)
    assert isinstance(stage, PanelScores)
    answers = [{}] * len(next(iter(scores.values())))
    entries = [{"scorer": name, "values": values} for name, values in scores.items()]
    [values] = stage.score([{"answers": answers, "scores": entries}], Path())
    return [None if value is None else pytest.approx(value) for value in values]


def test_scales_do_not_decide_and_weights_do() -> None:
    scores = {"ten": [10, 0, 5], "five": [1, 5, 3]}
    assert panel(scores) == [0.5, 0.5, 0.5]
    assert panel(scores, weights={"ten": 3, "five": 1}) == [0.75, 0.25, 0.5]
    assert panel(scores, scale="none") == [5.5, 2.5, 4]
    assert panel({"a": [2, 2]}) == [0.5, 0.5]


def test_a_median_ignores_who_is_far_off() -> None:
    scores = {"a": [1, 0], "b": [0.9, 0], "c": [-50, 0]}
    assert panel(scores, rule="median", scale="none") == [0.9, 0]
    assert weighted_median([(1, 1), (3, 1)]) == 2 and weighted_median([(1, 1), (3, 2)]) == 3
    assert weighted_median([(1, 2), (2, 1), (3, 1)]) == 1.5 and weighted_median([(7, 1)]) == 7


def test_a_majority_counts_pairs() -> None:
    scores = {"a": [3, 2, 1], "b": [3, 1, 2], "c": [1, 2, 3]}
    assert panel(scores, rule="majority") == [1, 0, 0.5]
    assert panel({"a": [2, 1], "b": [1, 2]}, rule="majority") == [0.5, 0.5]
    assert panel({"a": [2, 1], "b": [1, 2]}, rule="majority", weights={"a": 2, "b": 1}) == [1, 0]
    cycle = {"a": [3, 2, 1], "b": [1, 3, 2], "c": [2, 1, 3]}
    assert panel(cycle, rule="majority") == [0.5, 0.5, 0.5]  # Condorcet's


def test_a_tie_breaker_orders_equal_answers_and_no_others() -> None:
    scores = {"a": [2, 2, 1], "b": [1, 1, 3], "length": [0, 9, 5]}
    settings: dict[str, Any] = {"weights": {"a": 1, "b": 1}, "tie_breaker": "length"}
    for rule in ("mean", "median"):
        first, second, third = panel(scores, rule=rule, **settings)
        assert (first.expected, second.expected) == (0.5, 0.500001) and 0.5 < third.expected < second.expected
    assert panel(scores, rule="majority", **settings) == [0, 1, 0.5]
    unlike = {"a": [3, 2], "b": [3, 2], "length": [0, 9]}
    assert panel(unlike, **settings) == [1, 0]


def test_a_missing_voice_is_left_out_until_too_few_are_left() -> None:
    scores = {"a": [1, 0, None], "b": [None, 0, None], "c": [1, float("nan"), 1]}
    assert panel(scores, scale="none", quorum=0.6) == [1, 0, None]
    assert panel(scores, scale="none", quorum=0.3) == [1, 0, 1]
    assert panel(scores, scale="none", quorum=1) == [None, None, None]
    assert panel({"a": [1, None]}, rule="majority") == [None, None]
    with pytest.raises(InputError, match="panel needs the scores b; found a"):
        panel({"a": [1]}, weights={"a": 1, "b": 1})


def test_settings() -> None:
    source = {"path": "in.jsonl"}
    scorers = ["r3", "judge", {"kind": "panel", "weights": {"judge": 1}, "tie_breaker": "r3"}]
    assert PreferencesSettings.model_validate({"source": source, "scorers": scorers}).chosen_reward == "panel"
    with pytest.raises(ValidationError, match="panel weighs r3, which no scorer before it gives"):
        PreferencesSettings.model_validate({"source": source, "scorers": scorers[1:]})
    for wrong in ({}, {"weights": {}}, {"weights": {"a": 0}}, {"weights": {"a": 1}, "rule": "first"}):
        with pytest.raises(ValidationError):
            ScorerSettings.model_validate({"kind": "panel", **wrong})


@given(st.lists(st.floats(-1e300, 1e300) | st.none(), min_size=1, max_size=8))
def test_scaling_keeps_order_and_range(values: list[float | None]) -> None:
    after = [value for value in scaled(values) if value is not None]
    before = [value for value in values if value is not None]
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in after)
    order = sorted(range(len(before)), key=before.__getitem__)
    assert all(after[a] <= after[b] + 1e-9 for a, b in pairwise(order))
