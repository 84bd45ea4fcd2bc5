"""From prompts, or answers with rewards: N answers, scores, pairs by RIP, mu-2sigma and others.

Source: docs/papers.md#rip, #sweet-spot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, Source, chain, file_source, pool_source
from synthmill.flows.methods.preferences.dataset import preferences_dataset
from synthmill.flows.methods.preferences.settings import PoolSettings, PreferencesSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings, QuestionSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.pool_rows import VERIFIER
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile
from synthmill.storage.plain_files.rows import QUESTIONS
from synthmill.tasks.cuts.pair_limits import fixed_limits, with_unit_of_limits
from synthmill.tasks.cuts.pool_pairs import PoolPairs, PoolSigns, Preferences
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.dedup.contamination import CleanPairs
from synthmill.tasks.dedup.duplicates import UniquePairs
from synthmill.tasks.engines.engine import engine_name, resolve
from synthmill.tasks.generators.answers import PoolAnswers
from synthmill.tasks.running.job import Planned, Stage
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.texts.tokens import tokenizer_identity

UNUSED = ("system_column", "reference_column", "max_prompt_chars")
Roles = Mapping[str, EngineSettings]
Settings = TypeVar("Settings", bound=PoolSettings)


@dataclass(frozen=True)
class PoolStages:
    """What follows the pools: all stages; scored: the key of the pools that are cut; pairs: how; sources: others."""

    stages: Sequence[Planned]
    scored: str
    pairs: PoolPairs
    sources: Sequence[Source]


def plan(settings: PreferencesSettings) -> Plan:
    """Resolve engines, models and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolve_engines(settings, store)
    settings = in_own_units(settings).model_copy(update={"engines": roles})
    if settings.policies:
        source = file_source(store, settings.source, settings.rows_per_part, QUESTIONS)
        after_pools = plan_pool_stages("preferences", store, settings, roles, source.key, answers_of(settings))
    else:
        source = read_given_pools(store, settings)
        after_pools = plan_pool_stages("preferences", store, settings, roles, source.key)
    return Plan(
        "preferences",
        settings,
        store,
        source,
        after_pools.stages,
        lambda manifests: preferences_dataset(
            store, manifests, settings, after_pools.scored, after_pools.pairs, after_pools.stages
        ),
        trunk="preferences",
        others=after_pools.sources,
    )


def resolve_engines(settings: PoolSettings, store: Store) -> dict[str, EngineSettings]:
    """The engine of every role that these settings ask."""
    roles = {
        role: resolve(settings.engine(role), store)
        for role in dict.fromkeys((*settings.asks, *settings.policies, *settings.judges))
    }
    check_policies(settings.policies, roles)
    return roles


def check_policies(policies: Sequence[str], roles: Roles) -> None:
    """Raises InputError for two policies that are one model: its answers would be in the pool twice."""
    names: dict[str, str] = {}
    for policy in policies:
        name = engine_name(roles[policy])
        if name in names:
            raise InputError(
                f"the policies {names[name]} and {policy} are both {name}; give each its own engine, or ask one "
                "of them for more answers (answers.count)"
            )
        names[name] = policy


def answers_of(settings: PoolSettings) -> PoolAnswers:
    answers = settings.answers
    return PoolAnswers(
        sampling=settings.sampling(answers),
        policies=settings.policies,
        count=answers.count,
        min_answers=answers.min_answers,
    )


def in_own_units(settings: Settings) -> Settings:
    """With rules that count lengths as their stored limits do. Raises InputError for limits or tokenizers that are not
    there.
    """
    return settings.model_copy(update={"cuts": tuple(map(with_unit_of_limits, settings.cuts))})


def plan_pool_stages(
    flow: str, store: Store, settings: PoolSettings, roles: Roles, key: str, *first: Stage
) -> PoolStages:
    """Answers, if any are to be asked for; a stage per scorer; pairs by every rule; duplicates; limits."""
    most_answers = settings.answers.count * max(1, len(settings.policies))
    context = ScoringContext(settings.embedder, settings.seed, most_answers)
    scorers = [scorer.stage(context) for scorer in settings.scorers]
    scored = chain(roles, key, *first, *scorers)
    pools = scored[-1] if scored else None
    scored_key = pools.key if pools else key
    signs = chain(roles, scored_key, PoolSigns(reward=settings.chosen_reward))
    limited = [rule for rule in settings.cuts if isinstance(rule, Rip)]
    cutting = PoolPairs(
        reward=settings.chosen_reward,
        cuts=settings.cuts,
        length_control=settings.length_control,
        leave_out=settings.leave_out,
        signs=signs[-1].key,
        tokenizers=tuple(tokenizer_identity(rule.tokenizer) for rule in limited if rule.tokenizer),
    )
    fixed = {rule.label: fixed_limits(rule) for rule in limited if rule.stored_limits}
    pairs = chain(roles, scored_key, cutting)
    comparison = Comparison(CleanPairs, UniquePairs, within=("cut", "system", "pair"), score="chosen_reward")
    cleaning = clean(flow, settings, store, pairs[-1].key, comparison)
    last = chain(roles, cleaning.key, Preferences(cuts=settings.cuts, fixed=fixed))
    stages = [*scored, *signs, *pairs, *cleaning.stages, *last]
    return PoolStages(stages, scored_key, cutting, cleaning.sources)


def read_given_pools(store: Store, settings: PreferencesSettings) -> Source:
    """Pools that the source's rows bring; raises InputError where they lack what scorers or cuts need."""
    reading: QuestionSettings = settings.source
    score_columns: dict[str, Any] = {}
    for scorer in settings.scorers:
        score_columns |= dict.fromkeys(scorer.reads)
    labels = {label for scorer in settings.scorers for label in scorer.labels}
    if settings.chosen_reward not in labels | {"reward"}:
        score_columns[settings.chosen_reward] = None
    extra = tuple(name for name in score_columns if name not in labels)
    needs_rewards = settings.chosen_reward == "reward"
    defaults = type(reading).model_fields
    if unused := [name for name in UNUSED if getattr(reading, name) != defaults[name].default]:
        raise InputError(f"source.{unused[0]} has no effect on rows that bring answers (policies: []); leave it out")
    id_column = reading.id_column if reading.id_column != defaults["id_column"].default else ""
    names = ColumnNames(id_column, reading.prompt_column)

    by_row = tuple(name for name in VERIFIER if any(name in scorer.reads_by_row for scorer in settings.scorers))
    policies = any(rule.reads_policies for rule in settings.cuts)

    def file() -> PoolFile:
        return PoolFile(
            reading.path,
            names,
            rewards=needs_rewards,
            reference=True,
            extra=extra,
            single_turn=True,
            policies=policies,
            by_row=by_row,
        )

    return pool_source(store, file, settings.rows_per_part, reading.limit)
