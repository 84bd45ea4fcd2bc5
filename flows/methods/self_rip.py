"""From prompts that were kept, new ones like them, with pairs within the same limits.

Source: docs/papers.md#rip.
"""

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods.preferences import answers_of, in_own_units, plan_pool_stages, resolve_engines
from synthmill.flows.methods.preferences.dataset import preferences_dataset
from synthmill.flows.methods.preferences.settings import SelfRipSettings
from synthmill.schemas.hashing import content_hash
from synthmill.storage.plain_files.rows import INSTRUCTIONS, read_prompts
from synthmill.tasks.generators.self_rip import FreshPrompts, NewPrompts, ShotSets


def plan(settings: SelfRipSettings) -> Plan:
    """As `preferences`, with new prompts before it. Raises InputError, StoreError or EngineError."""
    store = open_checked_store(settings)
    roles = resolve_engines(settings, store)
    settings = in_own_units(settings)
    against = tuple(prompt for file in settings.against for prompt in read_prompts(file))
    settings = settings.model_copy(update={"engines": roles})
    source = file_source(store, settings.source, settings.rows_per_part)
    prompts, rows = settings.prompts, settings.rows_per_part
    rules = prompts.model_dump(include={"overlap", "fewest_words", "most_words", "keywords", "ascii_start"})
    first = chain(
        roles,
        source.key,
        ShotSets(count=prompts.count, shots=prompts.shots, seed=settings.seed, rows_per_part=rows),
        NewPrompts(sampling=settings.sampling(prompts), attempts=prompts.attempts),
        FreshPrompts(
            seeds=(INSTRUCTIONS.stage, source.key),
            against=against,
            against_hash=content_hash(against),
            rows_per_part=rows,
            **rules,
        ),
    )
    after_pools = plan_pool_stages("self-rip", store, settings, roles, first[-1].key, answers_of(settings))
    return Plan(
        "self-rip",
        settings,
        store,
        source,
        [*first, *after_pools.stages],
        lambda manifests: preferences_dataset(
            store, manifests, settings, after_pools.scored, after_pools.pairs, after_pools.stages
        ),
        trunk="preferences",
        others=after_pools.sources,
    )
