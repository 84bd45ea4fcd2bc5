"""Training rows for judges: rubrics, instructions, and a response with feedback for each score (Prometheus 1 and 2).

Source: docs/papers.md#feedback-collection.
"""

from collections.abc import Mapping
from statistics import mean
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, rows_source
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.settings import ENGINES, EngineSettings, StageSampling
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.dedup.contamination import CleanInstructions
from synthmill.tasks.dedup.duplicates import UniqueInstructions
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.feedback_collection import (
    SEEDS,
    FineRubrics,
    PairFeedback,
    RubricTaskRows,
    ScoredResponses,
    SeedRubric,
)
from synthmill.tasks.generators.judge_rows import JudgeTrainingRows
from synthmill.tasks.recipe import MOST_ATTEMPTS

CRITERIA = (
    *("Are its facts right?", "Does it follow every condition?", "Does it explain at the reader's level?"),
    *("Is it safe to act on?", "Does it have the tone that was asked for?", "Does it reason without gaps?"),
    *("Is it original?", "Does it admit what it does not know?", "Is it as long as it should be?"),
    *("Does it take the user's feelings into account?", "Is it fair to all who are concerned?", "Is its form right?"),
)


class PrometheusSettings(PublishSettings):
    """One run of `prometheus`: criteria -> rubrics -> instructions -> five scored responses with feedback -> pairs."""

    previewed: ClassVar = "count"

    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    seeds: tuple[str, ...] = Field(
        CRITERIA, min_length=1, description="criteria that rubrics are written from, in turn"
    )
    count: int = Field(1000, ge=1, description="rubrics; the paper's 1,000")
    per_rubric: int = Field(20, ge=1, description="instructions of a rubric; the paper's 20")
    length_ratio: float = Field(
        2.0, gt=1, description="of a response's words to the reference's, at most, or its inverse"
    )
    pairs: bool = Field(True, description="whether pairs are compared, too: ten for each instruction (Prometheus 2)")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    rubrics: StageSampling = StageSampling(max_tokens=2048)
    responses: StageSampling = StageSampling(max_tokens=2048)


def plan(settings: PrometheusSettings) -> Plan:
    """Resolve the engine and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {"teacher": resolve(settings.engine("teacher"), store)}
    settings = settings.model_copy(update={"engines": roles})
    seeds = [
        SeedRubric(id=content_hash([SEEDS, criteria, n]), criteria=criteria, number=n)
        for n, criteria in ((n, settings.seeds[n % len(settings.seeds)]) for n in range(settings.count))
    ]
    source = rows_source(store, SEEDS, seeds, f"{len(seeds):,} rubrics from {len(settings.seeds)} criteria")
    attempts, of_responses = settings.attempts, settings.sampling(settings.responses)
    tasks = chain(
        roles,
        source.key,
        FineRubrics(sampling=settings.sampling(settings.rubrics), count=settings.per_rubric, attempts=attempts),
        RubricTaskRows(count=settings.per_rubric),
    )
    comparison = Comparison(CleanInstructions, UniqueInstructions)
    cleaning = clean("prometheus", settings, store, tasks[-1].key, comparison)
    last = chain(
        roles,
        cleaning.key,
        ScoredResponses(sampling=of_responses, length_ratio=settings.length_ratio, attempts=attempts),
        *([PairFeedback(sampling=of_responses, seed=settings.seed, attempts=attempts)] if settings.pairs else []),
        JudgeTrainingRows(),
    )
    return Plan(
        "prometheus",
        settings,
        store,
        source,
        [*tasks, *cleaning.stages, *last],
        lambda manifests: prometheus_dataset(store, manifests, settings.pairs),
        trunk="judge_training_rows",
        others=cleaning.sources,
    )


def prometheus_dataset(store: Store, manifests: Mapping[str, Manifest], pairs: bool) -> Dataset:
    """Rows with scores, rows with preferences, and how labels and lengths are spread."""
    rows = stream_of(store, manifests["judge_training_rows"])
    abouts = {"absolute": "a judgement with a score from 1 to 5", "relative": "a comparison of two responses, A or B"}
    tables = {
        {"absolute": "feedback", "relative": "preference"}[form]: Table.of(
            rows.filter(pl.col("form") == form), "conversations", about
        )
        for form, about in abouts.items()
        if pairs or form == "absolute"
    }
    heads = ("form", "label", "rows", "mean words judged")
    return Dataset(
        "Feedback for judges",
        "Judgements by fine-grained rubrics, each with feedback; the label is what the response was written for.",
        tables,
        figures=[Figure("Labels and lengths", heads, label_counts(rows), text_columns=2)],
    )


def label_counts(rows: RowStream) -> tuple[tuple[str, ...], ...]:
    words: dict[tuple[str, str], list[int]] = {}
    for form, label, count in rows.frame(["form", "label", "words"]).rows():
        words.setdefault((form, label), []).append(count)
    return tuple((*labels, f"{len(of):,}", f"{mean(of):.1f}") for labels, of in sorted(words.items()))
