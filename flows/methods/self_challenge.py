"""From prompts that a model fails at, the patterns behind its errors, and new prompts of these patterns.

Source: docs/papers.md#self-challenge.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import polars as pl
from pydantic import Field, model_validator

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, Source, file_source, table_source
from synthmill.flows.making.row_chain import RowChain
from synthmill.flows.methods._failing import FailingSettings, prompt_table
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import arrow_schema
from synthmill.schemas.settings import QuestionSettings, StageSampling, TableSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.rows import QUESTIONS
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.dedup.contamination import CleanInstructions
from synthmill.tasks.dedup.duplicates import UniqueInstructions
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.error_patterns import (
    CheckedPatterns,
    ErrorPatterns,
    FailureGroups,
    PatternPrompts,
    PatternRows,
)
from synthmill.tasks.recipe import MOST_ATTEMPTS
from synthmill.tasks.running.job import Stage
from synthmill.tasks.tables.choosing import Filter
from synthmill.tasks.tables.shaping import Explode

VERDICT, ORIGIN = ("mean_score", "failed", "worst_answer"), ("origin", "shown", "group")
FAILURES, PATTERNS = "failures_", "patterns_"  # steps, followed by the round's number


class SelfChallengeSettings(FailingSettings):
    """One run of `self-challenge`: prompts -> failures -> patterns -> their check -> new prompts -> failures, again.

    Roles: target (answers), teacher (patterns and prompts), judge.
    """

    writers: ClassVar = ("teacher", "judge")

    source: QuestionSettings | None = Field(None, description="prompts, of which some make the target fail")
    patterns: TableSettings | None = Field(
        None, description="instead: patterns that a person has looked at; rows with name and description"
    )
    per_group: int = Field(5, ge=1, description="failures that are looked at together, about; ours")
    per_patterns: int = Field(2, ge=1, description="patterns of a group, at most; ours")
    per_pattern: int = Field(
        10, ge=0, description="prompts of a pattern; 0 stops at the patterns, for a person's check"
    )
    rounds: int = Field(1, ge=1, le=5, description="later ones begin with the failures of the one before")
    check_patterns: bool = Field(True, description="a judge accepts or refuses each pattern")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    writing: StageSampling = StageSampling(max_tokens=2048)

    @model_validator(mode="after")
    def begins_somewhere(self) -> "SelfChallengeSettings":
        if (self.source is None) == (self.patterns is None):
            raise ValueError("expected a source of prompts, or patterns; name one of them")
        if self.patterns and not self.per_pattern:
            raise ValueError("per_pattern is 0, so nothing would be made of the patterns; raise it")
        return self


def plan(settings: SelfChallengeSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in (*settings.writers, *settings.judging_roles)}
    settings = settings.model_copy(update={"engines": {**settings.engines, **roles}})
    source, rows, first = begin(settings, store)
    steps = rows.then(roles, *first, last="" if settings.patterns else f"{FAILURES}0")
    others: list[Source] = []
    for number in range(1, settings.rounds + 1 if settings.per_pattern else 2):
        if number > 1 or settings.source:
            steps += rows.then(roles, *pattern_stages(settings), last=f"{PATTERNS}{number}")
            if settings.check_patterns and settings.per_pattern:
                steps += rows.then(roles, Filter(where="accepted"))
        if settings.per_pattern:
            steps += rows.then(roles, *prompt_stages(settings))
            comparison = Comparison(CleanInstructions, UniqueInstructions)
            cleaning = clean("self-challenge", settings, store, rows.key, comparison)
            steps += rows.cleaned(cleaning)
            steps += rows.then(roles, *settings.failing_stages(), last=f"{FAILURES}{number}")
            others += cleaning.sources
    return Plan(
        "self-challenge",
        settings,
        store,
        source,
        steps,
        lambda manifests: self_challenge_dataset(store, manifests),
        trunk=steps[-1].step,
        others=others,
    )


def begin(settings: SelfChallengeSettings, store: Store) -> tuple[Source, RowChain, list[Stage]]:
    """What the first round begins with: prompts, at which the target may fail, or patterns from a file."""
    if settings.source:
        source = file_source(store, settings.source, settings.rows_per_part, QUESTIONS)
        return source, RowChain(source.key, arrow_schema(Question)), settings.failing_stages()
    assert settings.patterns
    source, columns = table_source(store, settings.patterns, settings.rows_per_part)
    if missing := sorted({"name", "description"} - {*columns.names}):
        raise InputError(f"{settings.patterns.path} has no column {missing[0]}; expected name and description")
    return source, RowChain(source.key, columns), [PatternRows()]


def pattern_stages(settings: SelfChallengeSettings) -> list[Stage]:
    """Failures -> patterns, checked by a judge where that is wanted."""
    writing, checking = settings.sampling(settings.writing), StageSampling(temperature=0.0, top_p=1.0)
    stages: list[Stage] = [
        FailureGroups(size=settings.per_group),
        ErrorPatterns(sampling=writing, count=settings.per_patterns, attempts=settings.attempts),
        Explode(column="pattern"),
    ]
    if settings.check_patterns:
        stages.append(CheckedPatterns(sampling=settings.sampling(checking), attempts=settings.attempts))
    return stages


def prompt_stages(settings: SelfChallengeSettings) -> list[Stage]:
    """Patterns -> their prompts, one a row."""
    writing = settings.sampling(settings.writing)
    prompts = PatternPrompts(sampling=writing, count=settings.per_pattern, attempts=settings.attempts)
    return [prompts, Explode(column="prompt")]


def self_challenge_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """The failures of all rounds as prompts, the patterns, and how hard each pattern is."""
    rounds = {step: step.removeprefix(FAILURES) for step in manifests if step.startswith(FAILURES)}
    prompts = [
        stream_of(store, manifests[step]).map(partial(in_round, number=int(number)))
        for step, number in rounds.items()
        if int(number)
    ]
    tables, figures = {}, []
    if prompts:
        rows = RowStream.chained(prompts)
        about = "a prompt that the target failed at, the pattern that it was written from (`origin`), and its round"
        tables["failures"] = prompt_table(rows.filter(pl.col("failed")), about)
        about = "a prompt of a pattern that the target answered well"
        tables["passed"] = prompt_table(rows.filter(~pl.col("failed")), about)
        figures.append(Figure("How hard the patterns are", ("pattern", "prompts", "failed"), hardness(rows)))
    patterns = [stream_of(store, manifests[step]) for step in manifests if step.startswith(PATTERNS)]
    if patterns:
        about = "a pattern of errors; edit these, and run again with `patterns=FILE`"
        tables["patterns"] = Table.of(RowStream.chained(patterns).map(pattern_row), "other", about)
    about = "Prompts of the patterns behind a model's failures, and the patterns."
    return Dataset("Self-Challenge", about, tables, figures=figures)


def in_round(rows: pl.DataFrame, number: int) -> pl.DataFrame:
    """Prompts with the number of their round, the same columns in every round."""
    return rows.select("id", "parent_id", "prompt", *VERDICT, *ORIGIN, round=pl.lit(number, pl.Int64))


def pattern_row(rows: pl.DataFrame) -> pl.DataFrame:
    """A pattern's name and description as columns of their own, which `patterns` reads, and its check."""
    names = ("id", "parent_id", "pattern", "failures", "accepted", "remark")
    return rows.select(name for name in names if name in rows.columns).unnest("pattern")


def hardness(rows: RowStream, most: int = 20) -> tuple[tuple[str, ...], ...]:
    """Per pattern its prompts, and how many of them failed; the hardest first."""
    counts = rows.frame(["origin", "failed"]).group_by("origin").agg(pl.len(), pl.col("failed").sum().alias("failed"))
    ranked = counts.sort(pl.col("failed") / pl.col("len"), "origin", descending=[True, False]).head(most)
    return tuple((origin, f"{count:,}", f"{failed:,}") for origin, count, failed in ranked.rows())
