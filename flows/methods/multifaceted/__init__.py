"""Instructions under system messages that stand for different people's values: SFT, DPO, RM, a bench.

Source: docs/papers.md#multifaceted.
"""

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods.multifaceted.dataset import multifaceted_dataset
from synthmill.schemas.multifaceted_settings import MultifacetedSettings
from synthmill.storage.plain_files.taxonomies import read_taxonomy
from synthmill.tasks.dedup.contamination import CleanInstructions
from synthmill.tasks.dedup.duplicates import UniqueInstructions
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.frames import RunContext
from synthmill.tasks.generators.multifaceted.diversity import Diversity
from synthmill.tasks.generators.multifaceted.filtering import FilterInstructions
from synthmill.tasks.generators.multifaceted.preference_sets import PreferenceSets
from synthmill.tasks.generators.multifaceted.rubrics import Rubrics
from synthmill.tasks.generators.multifaceted.splits import AlignedPairs, BenchVariants, Variants
from synthmill.tasks.generators.multifaceted.system_messages import Responses, SystemMessages
from synthmill.tasks.running.job import Stage
from synthmill.tasks.texts.languages import check_languages


def plan(settings: MultifacetedSettings) -> Plan:
    """Read the taxonomy, resolve engines and keys. Raises InputError, StoreError or EngineError."""
    taxonomy = read_taxonomy(settings.taxonomy)
    sets, bench = settings.preference_sets, settings.bench
    first = PreferenceSets(
        sampling=settings.sampling(sets),
        count=sets.count,
        sampler=sets.sampler,
        taxonomy=taxonomy,
        bench_share=bench.share,
        held_out=bench.held_out if bench.share else 0,
        attempts=settings.attempts,
    )
    dimensions = len(first.sides["bench"].dimensions)  # raises InputError where one has too few values
    check_languages(settings.filter.languages)
    filtering = FilterInstructions(**settings.filter.model_dump(), rows_per_part=settings.rows_per_part)
    store = open_checked_store(settings)
    source = file_source(store, settings.source, settings.rows_per_part)
    roles = {"teacher": resolve(settings.engine("teacher"), store)}
    settings = settings.model_copy(update={"engines": roles})
    filtered = chain(roles, source.key, filtering)
    comparison = Comparison(CleanInstructions, UniqueInstructions, fields={"rows_per_part": settings.rows_per_part})
    cleaning = clean("multifaceted", settings, store, filtered[-1].key, comparison)
    context = RunContext(settings.embedder)
    answered = chain(roles, cleaning.key, first, *answer_stages(settings, taxonomy.language))
    variants = chain(roles, answered[-1].key, Variants(seed=settings.seed, sets=sets.count))
    sides = [*chain(roles, answered[-1].key, AlignedPairs(seed=settings.seed))]
    sides += chain(roles, answered[-1].key, Diversity(), context=context)
    if settings.bench.share:
        sides += chain(roles, variants[-1].key, *bench_stages(settings, dimensions), context=context)
    return Plan(
        "multifaceted",
        settings,
        store,
        source,
        [*filtered, *cleaning.stages, *answered, *variants, *sides],
        lambda manifests: multifaceted_dataset(store, manifests, first, settings.embedder),
        trunk="variants",
        others=cleaning.sources,
    )


def answer_stages(settings: MultifacetedSettings, language: str) -> tuple[Stage, ...]:
    """System messages for the preference sets, and the responses under them."""
    attempts, count = settings.attempts, settings.preference_sets.count
    return (
        SystemMessages(
            sampling=settings.sampling(settings.system_messages), language=language, attempts=attempts, sets=count
        ),
        Responses(sampling=settings.sampling(settings.responses), attempts=attempts, sets=count),
    )


def bench_stages(settings: MultifacetedSettings, dimensions: int) -> tuple[Stage, ...]:
    """The bench's variants, and a rubric for each of their values."""
    bench = settings.bench
    return (
        BenchVariants(threshold=bench.threshold, rows_per_part=settings.rows_per_part),
        Rubrics(sampling=settings.sampling(bench), attempts=settings.attempts, dimensions=dimensions),
    )
