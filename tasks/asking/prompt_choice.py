"""Which of several prompts tells a model most: mutual information between inputs and answers, and its calibration.

Source: docs/papers.md#prompt-choice.
"""

from typing import NamedTuple

import numpy as np

from synthmill.tasks.cores import Array


class PromptFigures(NamedTuple):
    """What is known of each prompt, (prompts,) each, in nats. mutual_information: `balance` - `doubt`; calibrated: the
    same of chances that are calibrated by their marginals. accuracy, calibrated_accuracy: NaN without labels.
    """

    mutual_information: Array
    calibrated: Array
    balance: Array
    doubt: Array
    accuracy: Array
    calibrated_accuracy: Array


def calibrate(chances: Array) -> Array:
    """Calibration by marginalisation: each option's chance divided by its mean over the inputs, as shares of their sum.
    chances: (..., inputs, options); an option that never has a chance keeps none.
    """
    means = chances.mean(axis=-2, keepdims=True)
    ratios = np.divide(chances, means, out=np.zeros_like(chances), where=means > 0)
    sums = ratios.sum(axis=-1, keepdims=True)
    shares: Array = np.divide(ratios, sums, out=np.full_like(ratios, 1 / ratios.shape[-1]), where=sums > 0)
    return shares


def entropy(chances: Array) -> Array:
    """Of the last axis, in nats."""
    logs = np.log(chances, out=np.zeros_like(chances), where=chances > 0)
    total: Array = -(chances * logs).sum(axis=-1)
    return total


def mutual_information(chances: Array) -> Array:
    """Entropy of the mean chances minus their mean entropy: how much the input decides. chances: (..., inputs,
    options) -> (...,).
    """
    information: Array = entropy(chances.mean(axis=-2)) - entropy(chances).mean(axis=-1)
    return information


def prompt_figures(chances: Array, labels: Array | None = None) -> PromptFigures:
    """chances: (prompts, inputs, options). labels: (inputs,) the right option's place, -1 where it is not known."""
    calibrated = calibrate(chances)
    accuracies = np.full((2, len(chances)), np.nan)
    if labels is not None and (known := labels >= 0).any():
        for row, of_kind in enumerate((chances, calibrated)):
            accuracies[row] = (of_kind.argmax(axis=-1)[:, known] == labels[known]).mean(axis=-1)
    information, doubt = mutual_information(chances), entropy(chances).mean(axis=-1)
    return PromptFigures(information, mutual_information(calibrated), information + doubt, doubt, *accuracies)
