"""From prompts that a model fails at, the patterns behind its errors, and new prompts of these patterns.

Source: docs/papers.md#self-challenge.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import polars as pl
from pydantic import Field, model_validator

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, Source, chain, file_source, table_source
from synthmill.flows.methods._failing import FailingSettings, Roles, chain_with
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
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
from synthmill.tasks.running.job import Planned, Stage
from synthmill.tasks.tables.choosing import Filter
from synthmill.tasks.tables.shaping import Explode

CARRIED = ("group", "origin")
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
    source, steps, others = first_steps(settings, store, roles)
    for number in range(1, settings.rounds + 1 if settings.per_pattern else 2):
        if number > 1 or settings.source:
            steps += patterns_of(settings, roles, steps[-1].key, number)
        if not settings.per_pattern:
            break
        instances, more = instances_of(settings, store, roles, steps[-1].key, number)
        steps, others = [*steps, *instances], [*others, *more]
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


def first_steps(
    settings: SelfChallengeSettings, store: Store, roles: Roles
) -> tuple[Source, list[Planned], list[Source]]:
    """What the first round begins with: the target's failures at the source, or patterns from a file."""
    if settings.patterns:
        source, columns = table_source(store, settings.patterns, settings.rows_per_part)
        if missing := sorted({"name", "description"} - {*columns.names}):
            raise InputError(f"{settings.patterns.path} has no column {missing[0]}; expected name and description")
        return source, chain({}, source.key, PatternRows()), []
    assert settings.source
    source = file_source(store, settings.source, settings.rows_per_part, QUESTIONS)
    return source, chain_with((), roles, source.key, settings.failing_stages(), f"{FAILURES}0"), []


def patterns_of(settings: SelfChallengeSettings, roles: Roles, key: str, number: int) -> list[Planned]:
    """Failures -> patterns, checked by a judge where that is wanted."""
    writing = settings.sampling(settings.writing)
    stages: list[Stage] = [
        FailureGroups(size=settings.per_group),
        ErrorPatterns(sampling=writing, count=settings.per_patterns, attempts=settings.attempts),
        Explode(column="pattern"),
    ]
    checking = settings.sampling(StageSampling(temperature=0.0, top_p=1.0))
    check = CheckedPatterns(sampling=checking, attempts=settings.attempts)
    checked = [check] if settings.check_patterns else []
    planned = chain_with((), roles, key, [*stages, *checked], f"{PATTERNS}{number}")
    if not settings.check_patterns or not settings.per_pattern:
        return planned
    return [*planned, *chain({}, planned[-1].key, Filter(where="accepted"))]


def instances_of(
    settings: SelfChallengeSettings, store: Store, roles: Roles, key: str, number: int
) -> tuple[list[Planned], Sequence[Source]]:
    """Patterns -> prompts -> the target's failures at them; and what is read for it."""
    writing = settings.sampling(settings.writing)
    prompts = PatternPrompts(sampling=writing, count=settings.per_pattern, attempts=settings.attempts)
    written = chain(roles, key, prompts, Explode(column="prompt"))
    comparison = Comparison(CleanInstructions, UniqueInstructions)
    cleaning = clean("self-challenge", settings, store, written[-1].key, comparison)
    stages = settings.failing_stages()
    failures = chain_with(CARRIED, roles, cleaning.key, stages, f"{FAILURES}{number}")
    return [*written, *cleaning.stages, *failures], cleaning.sources


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
        tables["failures"] = Table.of(rows.filter(pl.col("failed")), "prompts", about)
        about = "a prompt of a pattern that the target answered well"
        tables["passed"] = Table.of(rows.filter(~pl.col("failed")), "prompts", about)
        figures.append(Figure("How hard the patterns are", ("pattern", "prompts", "failed"), hardness(rows)))
    patterns = [stream_of(store, manifests[step]) for step in manifests if step.startswith(PATTERNS)]
    if patterns:
        about = "a pattern of errors; edit these, and run again with `patterns=FILE`"
        tables["patterns"] = Table.of(RowStream.chained(patterns).map(pattern_row), "other", about)
    about = "Prompts of the patterns behind a model's failures, and the patterns."
    return Dataset("Self-Challenge", about, tables, figures=figures)


def in_round(rows: pl.DataFrame, number: int) -> pl.DataFrame:
    return rows.with_columns(round=pl.lit(number, pl.Int64))


def pattern_row(rows: pl.DataFrame) -> pl.DataFrame:
    """A pattern's name and description as columns of their own, which `patterns` reads."""
    return rows.unnest("pattern")


def hardness(rows: RowStream, most: int = 20) -> tuple[tuple[str, ...], ...]:
    """Per pattern its prompts, and how many of them failed; the hardest first."""
    counts = rows.frame(["origin", "failed"]).group_by("origin").agg(pl.len(), pl.col("failed").sum().alias("failed"))
    ranked = counts.sort(pl.col("failed") / pl.col("len"), "origin", descending=[True, False]).head(most)
    return tuple((origin, f"{count:,}", f"{failed:,}") for origin, count, failed in ranked.rows())
