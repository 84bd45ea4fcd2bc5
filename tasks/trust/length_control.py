"""Win rates against a baseline, and length-controlled ones: AlpacaEval's regression.

logit(chance to win) = a * tanh(difference of lengths / its standard deviation) + b * difficulty of the prompt + c; the
length-controlled win rate is the mean prediction where lengths do not differ. Source: docs/papers.md#lc-alpacaeval.
"""

from typing import NamedTuple

import numpy as np

from synthmill.tasks.cores import Array

FOLDS, SEED = 5, 123
STRENGTHS = np.logspace(-4, 4, 10)  # scikit-learn's C, of which cross-validation takes one
GAMED_WEIGHT = 0.2 / 2  # of a row of one of the two gamed baselines
RIDGE = 0.02  # of difficulties that are estimated
FEWEST = 2 * FOLDS


class Gamed(NamedTuple):
    """Answers of the baseline that was told to be brief, or long: (rows,) each. They hold the length's weight down."""

    preferences: Array
    lengths: Array
    difficulties: Array


class WinRate(NamedTuple):
    """Percentages and their standard errors; controlled: None where there are too few prompts. weights: a, b, c."""

    prompts: int
    win_rate: float
    error: float
    controlled: float | None
    controlled_error: float | None
    weights: tuple[float, float, float] | None


def length_controlled(
    preferences: Array, differences: Array, difficulties: Array, gamed: Gamed | None = None
) -> WinRate:
    """A policy's win rates. preferences: chances to win, 0 to 1; differences: the baseline's length less the policy's,
    in characters; difficulties: all (prompts,).
    """
    count = len(preferences)
    rate = 100 * float(preferences.mean()), 100 * standard_error(preferences)
    if count < FEWEST:
        return WinRate(count, *rate, None, None, None)
    spread = differences.std(ddof=1)
    lengths = np.tanh(differences / spread) if spread > 0 else np.zeros(count)
    features = np.stack([lengths, difficulties, np.ones(count)], 1)
    targets, weights = preferences, np.ones(count)
    if gamed is not None:
        rows = np.stack([np.tanh(gamed.lengths), gamed.difficulties, np.zeros(len(gamed.lengths))], 1)
        features, targets = np.concatenate([rows, features]), np.concatenate([gamed.preferences, preferences])
        weights = np.concatenate([np.full(len(rows), GAMED_WEIGHT), weights])
    fitted = fit(features, targets, weights)
    chances = sigmoid(np.stack([np.zeros(count), difficulties, np.ones(count)], 1) @ fitted)
    a, b, c = map(float, fitted)
    return WinRate(count, *rate, 100 * float(chances.mean()), 100 * standard_error(chances), (a, b, c))


def fit(features: Array, targets: Array, weights: Array) -> Array:
    """The weights of an L1 logistic regression on chances, its strength by cross-validation, as in the released code:
    every row twice, won and lost, weighted with its chance of each; folds never part the two.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    count = len(targets)
    doubled, outcomes = np.concatenate([features, features]), np.repeat([1, 0], count)
    chances, importance = np.concatenate([targets, 1 - targets]), np.concatenate([weights, weights])

    def fitted(rows: Array, strength: float) -> Array:
        model = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=SEED)
        model.fit(doubled[rows], outcomes[rows], sample_weight=(chances * importance)[rows])
        coefficients: Array = model.coef_[0]
        return coefficients

    groups = np.tile(np.arange(count), 2)
    folds = list(GroupKFold(FOLDS).split(doubled, outcomes, groups))
    losses = []
    for strength in STRENGTHS:
        of_folds = []
        for train, test in folds:
            predicted = np.clip(sigmoid(doubled[test] @ fitted(train, strength)), 1e-15, 1 - 1e-15)
            truth = np.where(outcomes[test] == 1, chances[test], 1 - chances[test])
            loss = truth * np.log(predicted) + (1 - truth) * np.log(1 - predicted)
            of_folds.append(-np.mean(loss * importance[test]))
        losses.append(np.mean(of_folds))
    return fitted(np.arange(2 * count), float(STRENGTHS[int(np.argmin(losses))]))


def estimated_difficulties(preferences: Array, differences: Array) -> Array:
    """Each prompt's difficulty, from all policies together: (prompts,), zeros for a single policy.

    preferences, differences: (prompts, policies), NaN where a policy has no answer. One regression with a weight and a
    length's weight for each policy and a number for each prompt, which all are held to zero by a little.
    """
    from scipy.optimize import minimize

    prompts, policies = preferences.shape
    if policies < 2:
        return np.zeros(prompts)
    present = ~np.isnan(preferences)
    counts = present.sum(0)
    centred = np.where(present, differences - np.nansum(differences, 0) / np.maximum(counts, 1), 0)
    spread = np.sqrt((centred**2).sum(0) / np.maximum(counts - 1, 1))
    lengths = np.tanh(np.where(present, differences, 0) / np.where(spread > 0, spread, 1))
    targets = np.where(present, preferences, 0)

    def loss(parameters: Array) -> tuple[float, Array]:
        level, slope, difficulty = np.split(parameters, [policies, 2 * policies])
        logits = level + slope * lengths + difficulty[:, None]
        error = (sigmoid(logits) - targets) * present
        gradient = np.concatenate([error.sum(0), (error * lengths).sum(0), error.sum(1)]) + RIDGE * parameters
        value = ((np.logaddexp(0, logits) - targets * logits) * present).sum() + RIDGE / 2 * (parameters**2).sum()
        return float(value), gradient

    result = minimize(loss, np.zeros(2 * policies + prompts), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    difficulties: Array = result.x[2 * policies :]
    return difficulties


def sigmoid(logits: Array) -> Array:
    chances: Array = np.exp(-np.logaddexp(0, -logits))
    return chances


def standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
