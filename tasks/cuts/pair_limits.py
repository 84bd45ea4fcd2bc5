"""Limits of pairs that need no fitting: a preset's, a file's, a setting's; and the unit that lengths are counted in."""

from collections.abc import Callable
from pathlib import Path

from synthmill.schemas.cut_settings import LIMITS, PRESETS, QUANTILES, CutSettings, Thresholds
from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.thresholds import read_thresholds
from synthmill.tasks.texts.tokens import load_tokenizer
from synthmill.tasks.texts.words import tokens_of


def fixed_limits(settings: CutSettings) -> Thresholds:
    """Limits that need no fitting. Raises InputError for a file that holds none."""
    if settings.preset:
        return PRESETS[settings.preset]
    return read_thresholds(Path(settings.thresholds)) if settings.thresholds else own_limits(settings)


def with_unit_of_limits(settings: CutSettings) -> CutSettings:
    """Settings that count lengths in the unit of the stored limits.

    Raises InputError where the settings name another unit, and where the limits or the tokenizer cannot be found.
    """
    limits = fixed_limits(settings)
    unit = {"length": limits.length, "tokenizer": limits.tokenizer}
    if contradicted := [
        name for name, value in unit.items() if name in settings.model_fields_set and getattr(settings, name) != value
    ]:
        where = settings.thresholds or settings.preset
        counted_in = f"{limits.length}{f' of {limits.tokenizer}' if limits.tokenizer else ''}"
        raise InputError(f"{where} counts length in {counted_in}; leave out --{contradicted[0]}")
    settings = settings.model_copy(update=unit)
    token_counter(settings)
    return settings


def quantiles_of(settings: CutSettings) -> dict[str, float | None]:
    """Which quantile each of RIP's limits is fitted at."""
    return {name: getattr(settings, quantile) for name, quantile in zip(LIMITS, QUANTILES, strict=True)}


def own_limits(settings: CutSettings) -> Thresholds:
    """The limits that the settings give as numbers."""
    unit = {"length": settings.length, "tokenizer": settings.tokenizer}
    return Thresholds(**unit, **{name: getattr(settings, name) for name in LIMITS})


def token_counter(settings: CutSettings) -> Callable[[str], int] | None:
    """The function that counts an answer's length; None for characters. Raises InputError for a missing tokenizer."""
    if settings.length == "characters":
        return None
    if settings.tokenizer:
        encode = load_tokenizer(settings.tokenizer, chat=False).encode
        return lambda text: len(encode(text, add_special_tokens=False))
    return lambda text: len(tokens_of(text))
