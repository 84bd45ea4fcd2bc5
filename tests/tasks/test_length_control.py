"""AlpacaEval's length-controlled win rate: the released fit, known weights, few prompts, equal lengths."""

import warnings
from typing import Any

import numpy as np
import pytest

from synthmill.tasks.trust.length_control import (
    Gamed,
    estimated_difficulties,
    fit,
    length_controlled,
    sigmoid,
)

RANDOM = np.random.default_rng(3)


def sample(count: int, slope: float, level: float) -> tuple[Any, Any, Any]:
    """(preferences, differences, difficulties) of a policy whose weights are known."""
    differences, difficulties = RANDOM.normal(0, 500, count), RANDOM.normal(0, 1, count)
    logits = slope * np.tanh(differences / differences.std(ddof=1)) + difficulties + level
    return sigmoid(logits + RANDOM.normal(0, 0.1, count)), differences, difficulties


def released_fit(features: Any, targets: Any, weights: Any) -> Any:
    """What glm_winrate.py calls, by the same class of scikit-learn."""
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    def loss(y: Any, predicted: Any, chances: Any, importance: Any) -> float:
        truth = np.where(y == 1, chances, 1 - chances)
        predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
        return float(-np.mean((truth * np.log(predicted) + (1 - truth) * np.log(1 - predicted)) * importance))

    count = len(targets)
    chances, importance = np.concatenate([targets, 1 - targets]), np.concatenate([weights, weights])
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that newer versions call otherwise
        scorer = make_scorer(loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            cv=GroupKFold(5),
            scoring=scorer.set_score_request(chances=True, importance=True),
            random_state=123,
            penalty="l1",
            solver="liblinear",
            fit_intercept=False,
        ).set_fit_request(sample_weight=True)
        model.fit(
            np.concatenate([features, features]),
            np.repeat([1, 0], count),
            sample_weight=chances * importance,
            groups=np.tile(np.arange(count), 2),
            chances=chances,
            importance=importance,
        )
    return model.coef_[0]


def test_the_fit_is_the_released_ones() -> None:
    preferences, differences, difficulties = sample(60, -1.5, -0.5)
    features = np.stack([np.tanh(differences / 500), difficulties, np.ones(60)], 1)
    weights = RANDOM.uniform(0.1, 1, 60)
    assert fit(features, preferences, weights) == pytest.approx(released_fit(features, preferences, weights), abs=1e-4)


def test_length_is_taken_away() -> None:
    preferences, differences, difficulties = sample(300, -2.0, 0.0)
    long = np.abs(differences) * -1  # a policy that always writes more than the baseline
    logits = -2 * np.tanh(long / long.std(ddof=1)) + difficulties
    rate = length_controlled(sigmoid(logits), long, difficulties)
    assert rate.win_rate > 65 and rate.controlled == pytest.approx(50, abs=1)
    assert rate.weights == pytest.approx((-2, 1, 0), abs=0.1)
    assert rate.controlled_error == pytest.approx(100 * sigmoid(difficulties).std(ddof=1) / 300**0.5, rel=0.1)
    assert length_controlled(preferences, differences * 0, difficulties).controlled == pytest.approx(
        100 * preferences.mean(), abs=1
    )


def test_gamed_baselines_hold_the_weight_of_length_down() -> None:
    preferences, differences, difficulties = sample(100, -4.0, 0.0)
    lengths = RANDOM.normal(0, 1, 200)
    gamed = Gamed(sigmoid(-0.5 * np.tanh(lengths)), lengths, np.zeros(200))
    free = length_controlled(preferences, differences, difficulties).weights
    held = length_controlled(preferences, differences, difficulties, gamed).weights
    assert free and held and free[0] < held[0] - 0.3


def test_difficulties_are_found_again_from_several_policies() -> None:
    difficulty = RANDOM.normal(0, 1.5, 80)
    differences = RANDOM.normal(0, 300, (80, 6))
    levels, slopes = RANDOM.normal(-1, 1, 6), RANDOM.normal(-1, 0.3, 6)
    lengths = np.tanh(differences / differences.std(axis=0, ddof=1))
    preferences = sigmoid(levels + slopes * lengths + difficulty[:, None])
    preferences[3, 2] = differences[3, 2] = np.nan
    found = estimated_difficulties(preferences, differences)
    assert np.corrcoef(found, difficulty)[0, 1] > 0.99
    assert (estimated_difficulties(preferences[:, :1], differences[:, :1]) == 0).all()


def test_few_prompts_have_no_length_control() -> None:
    rate = length_controlled(np.array([1.0, 0.5]), np.array([3.0, 9.0]), np.zeros(2))
    assert (rate.prompts, rate.win_rate, rate.controlled) == (2, 75.0, None)
