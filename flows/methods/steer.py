"""From example prompts, series of new ones, each steered away from those before it, with measures of both sides.

Source: docs/papers.md#steer.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import polars as pl
from pydantic import Field

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Frozen
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.settings import ENGINES, EngineSettings, SourceSettings, StageSampling
from synthmill.storage.artifacts import Store
from synthmill.storage.published.by_columns import TableForm, table_of
from synthmill.storage.published.configurations import Dataset, Figure
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.dedup.contamination import CleanRows
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.frames import RunContext
from synthmill.tasks.generators.guided_series import GuidedSeries
from synthmill.tasks.generators.self_rip import ShotSets
from synthmill.tasks.generators.series import PromptSeries, SeriesMeasures
from synthmill.tasks.recipe import MOST_ATTEMPTS
from synthmill.tasks.texts.words import grams, words_of


class GuidanceSettings(Frozen):
    """Steering by logits, with transformers in the worker instead of the teacher."""

    model: LocalPath = Field(description="a folder: the expert, tuned to the domain")
    base: LocalPath = Field("", description="a folder: what it was tuned from; empty: no contrast between the two")
    expert: float = Field(0.5, ge=0, description="how far away from the base; ours")
    away: float = Field(0.5, ge=0, description="how far away from the prompts before; ours")


class SteerSettings(PublishSettings):
    """One run of `steer`: examples -> series of prompts, each unlike those before it -> measures."""

    source: SourceSettings
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    count: int = Field(100, ge=1, description="series, each with examples of its own")
    shots: int = Field(3, ge=1, description="examples of a series; ours")
    length: int = Field(8, ge=1, description="prompts of a series; ours")
    negatives: int = Field(8, ge=0, description="earlier prompts that are shown, or penalised; 0: none, to compare")
    overlap: float = Field(0.7, gt=0, le=1, description="ROUGE-L with an earlier prompt from which one is refused")
    guidance: GuidanceSettings | None = Field(None, description="by logits; default: by words")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    prompts: StageSampling = StageSampling(max_tokens=256)


def plan(settings: SteerSettings) -> Plan:
    """Resolve the engine and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {} if settings.guidance else {"teacher": resolve(settings.engine("teacher"), store)}
    settings = settings.model_copy(update={"engines": {**settings.engines, **roles}})
    source = file_source(store, settings.source, settings.rows_per_part)
    shots = ShotSets(
        count=settings.count, shots=settings.shots, seed=settings.seed, rows_per_part=settings.rows_per_part
    )
    series = series_stage(settings)
    stages = chain(roles, source.key, shots, series, SeriesMeasures(), context=RunContext(settings.embedder))
    cleaning = clean("steer", settings, store, stages[-1].key, Comparison(CleanRows, UniqueRows))
    return Plan(
        "steer",
        settings,
        store,
        source,
        [*stages, *cleaning.stages],
        lambda manifests: steer_dataset(store, manifests),
        trunk="unique_rows",
        others=cleaning.sources,
    )


def series_stage(settings: SteerSettings) -> PromptSeries | GuidedSeries:
    """What writes the series: a teacher that is shown what was written, or guided probabilities."""
    common = settings.model_dump(include={"length", "negatives", "overlap"})
    if not settings.guidance:
        return PromptSeries(sampling=settings.sampling(settings.prompts), attempts=settings.attempts, **common)
    drawing = {name: value for name, value in settings.prompts.model_dump().items() if value is not None}
    return GuidedSeries(seed=settings.seed, **settings.guidance.model_dump(), **drawing, **common)


def steer_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """The prompts with their measures, and how the measures go along the series."""
    rows = stream_of(store, manifests["unique_rows"])
    about = "a prompt, its place in its series, how near it is to its examples and to the nearest one before it"
    frame = rows.frame(["prompt", "place", "coherence", "likeness"])
    return Dataset(
        "Steered prompts",
        "Prompts in series, each steered away from those before it.",
        {"prompts": table_of(rows, form=TableForm(kind="prompts", about=about))},
        figures=[along_series(frame), Figure.lines("Over all prompts", overall(frame))],
    )


def along_series(frame: pl.DataFrame) -> Figure:
    """Coherence and likeness by place in the series."""
    means = frame.group_by("place").agg(pl.len(), pl.mean("coherence"), pl.mean("likeness")).sort("place")
    cells = [
        (f"{place + 1}", f"{count:,}", f"{coherence:.2f}", "–" if likeness is None else f"{likeness:.2f}")
        for place, count, coherence, likeness in means.rows()
    ]
    about = "Cosines. Coherence: with the examples. Likeness: with the nearest prompt before it in the series."
    return Figure("Coherence and diversity", ("place", "prompts", "coherence", "likeness"), tuple(cells), about=about)


def overall(frame: pl.DataFrame) -> list[str]:
    """Distinct word pairs, and the means of both measures."""
    pairs = Counter(pair for prompt in frame["prompt"] for pair in grams(words_of(prompt), 2))
    distinct = len(pairs) / max(1, pairs.total())
    means = frame.select(pl.mean("coherence", "likeness")).row(0, named=True)
    lines = [f"mean {name}: {value:.2f}" for name, value in means.items() if value is not None]
    return [f"distinct word pairs: {distinct:.2f}", *lines]
