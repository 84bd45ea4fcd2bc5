"""RIP's limits: keep the prompts whose rejected answer is good and long and not far below the chosen one.

Limits are fitted on pairs, or come from a preset, a file or settings. Source: docs/papers.md#rip. They remove prompts,
and never pair answers anew.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from synthmill.schemas.errors import InputError
from synthmill.schemas.rip_limits import LIMITS, Thresholds
from synthmill.storage.plain_files.thresholds import read_thresholds
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.cuts.rules.rip import PRESETS, Rip
from synthmill.tasks.texts.tokens import load_tokenizer
from synthmill.tasks.texts.words import tokens_of

Metrics = dict[str, Array]
"""rejected_reward, rejected_length, gap: (pairs,) numbers."""


def fit(metrics: Metrics, quantiles: dict[str, float | None], fixed: Thresholds) -> Thresholds:
    """Limits at quantiles of the pairs' metrics, with linear interpolation. A quantile of None asks for no limit, and a
    fixed limit is not fitted.
    """
    count = len(metrics["gap"])
    fitted_at = {
        name: quantile for name, quantile in quantiles.items() if quantile is not None and getattr(fixed, name) is None
    }
    fitted = {name: float(np.quantile(metrics[name], quantile)) for name, quantile in fitted_at.items() if count}
    return fixed.model_copy(update={**fitted, "quantiles": {name: fitted_at[name] for name in fitted}, "pairs": count})


def limits_met(metrics: Metrics, limits: Thresholds) -> dict[str, Array]:
    """Per limit, (pairs,) bool: at least the reward, at least the length, at most the gap."""
    verdicts = {}
    for name in LIMITS:
        limit = getattr(limits, name)
        if limit is not None:
            verdicts[name] = metrics[name] <= limit if name == "gap" else metrics[name] >= limit
    return verdicts


def keeps(metrics: Metrics, limits: Thresholds) -> Array:
    """(pairs,) bool: within every limit."""
    kept: Array = np.logical_and.reduce([np.ones(len(metrics["gap"]), bool), *limits_met(metrics, limits).values()])
    return kept


def fixed_limits(settings: Rip) -> Thresholds:
    """Limits that need no fitting. Raises InputError for a file that holds none."""
    if settings.preset:
        return PRESETS[settings.preset]
    return read_thresholds(Path(settings.thresholds)) if settings.thresholds else settings.own_limits


def with_unit_of_limits(settings: CutSettings) -> CutSettings:
    """Settings that count lengths in the unit of the stored limits, if their rule has limits.

    Raises InputError where the settings name another unit, and where the limits or the tokenizer cannot be found.
    """
    if not isinstance(settings, Rip):
        return settings
    limits = fixed_limits(settings)
    unit = {"length": limits.length, "tokenizer": limits.tokenizer}
    if contradicted := [
        name for name, value in unit.items() if name in settings.model_fields_set and getattr(settings, name) != value
    ]:
        counted_in = f"{limits.length}{f' of {limits.tokenizer}' if limits.tokenizer else ''}"
        raise InputError(f"{settings.stored_limits} counts length in {counted_in}; leave out --{contradicted[0]}")
    settings = settings.model_copy(update=unit)
    token_counter(settings)
    return settings


def token_counter(settings: CutSettings) -> Callable[[str], int] | None:
    """The function that counts an answer's length; None for characters. Raises InputError for a missing tokenizer."""
    if not isinstance(settings, Rip) or settings.length == "characters":
        return None
    if settings.tokenizer:
        encode = load_tokenizer(settings.tokenizer, chat=False).encode
        return lambda text: len(encode(text, add_special_tokens=False))
    return lambda text: len(tokens_of(text))
