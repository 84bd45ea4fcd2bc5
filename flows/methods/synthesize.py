"""Preference pairs from instructions: N answers each, rewards, best over worst.

Source: docs/papers.md#multifaceted, #r3.
"""

from collections.abc import Mapping

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods.multifaceted.dataset import PICTURE, VALUES_FIGURE, draw_values, value_counts
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.endings import Ending
from synthmill.schemas.synthesize_settings import SynthesizeSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.taxonomies import read_taxonomy
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.rows import KEPT, PAIR, endings_in, preference_rows, stream_of
from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs
from synthmill.tasks.dedup.contamination import CleanPairs
from synthmill.tasks.dedup.duplicates import UniquePairs
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.frames import RunContext
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.generators.multifaceted.preference_sets import PreferenceSets
from synthmill.tasks.generators.multifaceted.splits import Variants
from synthmill.tasks.generators.multifaceted.system_messages import SystemMessages
from synthmill.tasks.scorers.r3 import R3


def plan(settings: SynthesizeSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is made."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in ("teacher", "student")}
    settings = settings.model_copy(update={"engines": roles})
    answers = settings.answers
    source = file_source(store, settings.source, settings.rows_per_part)
    stages = chain(
        roles,
        source.key,
        PreferenceSets(sampling=settings.sampling(settings.preference_sets), count=1, taxonomy=read_taxonomy("")),
        SystemMessages(sampling=settings.sampling(settings.system_messages), sets=1),
        Variants(seed=settings.seed, sets=1),
        Answers(sampling=settings.sampling(answers), count=answers.count, min_answers=answers.min_answers),
        R3(),
        MaxMinPairs(),
        context=RunContext(settings.embedder),
    )
    comparison = Comparison(CleanPairs, UniquePairs, score="chosen_reward")
    cleaning = clean("synthesize", settings, store, stages[-1].key, comparison)
    return Plan(
        "synthesize",
        settings,
        store,
        source,
        [*stages, *cleaning.stages],
        lambda manifests: preference_dataset(store, manifests),
        trunk="unique_pairs",
        others=cleaning.sources,
    )


def answers_in_words(ends: Mapping[Ending, int]) -> str:
    """The card's section on how answers ended."""
    return (
        f"## The answers\n\n{sum(ends.values()):,} answers; {ends['length']:,} were cut at max_tokens, and "
        f"{ends['content_filter']:,} were broken off by a content filter; both are in no pair.\n"
    )


def preference_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """The kept pairs, all for training; manifests: by stage."""
    rows = stream_of(store, manifests["unique_pairs"]).filter(KEPT).map(preference_rows)
    return Dataset(
        "Preference pairs",
        "Instructions under system messages that stand for a user's values, with a better answer over a worse one.",
        {"preference": Table.of(rows, "preferences", PAIR)},
        answers_in_words(endings_in(store, manifests["answers"])),
        {PICTURE: draw_values(value_counts(stream_of(store, manifests["variants"])))},
        figures=[VALUES_FIGURE],
    )
