"""From conversations and a corpus, rows that teach a query rewriter what a retriever likes.

Source: docs/papers.md#retpo.
"""

from collections.abc import Iterator

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods.retpo.dataset import retpo_dataset
from synthmill.flows.methods.retpo.search import Search, plan_search
from synthmill.flows.methods.retpo.settings import RetpoSettings
from synthmill.storage.plain_files.turns import is_beir, turns_kind
from synthmill.tasks.dedup.contamination import CleanTurns
from synthmill.tasks.dedup.duplicates import UniqueTurns
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.retrieval.candidates import Candidates
from synthmill.tasks.retrieval.comparisons import MinedNegatives, ParetoPairs, QueryPairs, QueryPicks, QueryPools
from synthmill.tasks.retrieval.keyword_queries import KeywordQueries
from synthmill.tasks.running.job import Stage


def plan(settings: RetpoSettings) -> Plan:
    """Read what is judged relevant, resolve engines, models and keys. Raises InputError, StoreError or EngineError."""
    kind = turns_kind(settings.source.qrels)
    store = open_checked_store(settings)
    ignored = settings.ignore_identical_ids
    if ignored is None:
        ignored = is_beir(settings.corpus, settings.source.qrels)
    settings = settings.model_copy(update={"ignore_identical_ids": ignored})
    search = plan_search(store, settings.corpus, settings.retrievers, settings.depth, ignored)
    source = file_source(store, settings.source, settings.rows_per_part, kind)
    roles = {"teacher": resolve(settings.engine("teacher"), store)}
    settings = settings.model_copy(update={"engines": roles})
    placed = chain(roles, source.key, search.places)
    per_part = {"rows_per_part": settings.rows_per_part}
    comparison = Comparison(CleanTurns, UniqueTurns, columns=("history", "question"), fields=per_part)
    cleaning = clean("retpo", settings, store, placed[-1].key, comparison)
    written = chain(roles, cleaning.key, candidates_stage(settings), *keyword_stages(settings))
    ranked = chain(roles, written[-1].key, *search.ranks)
    sides = [step for stage in choices(settings, search) for step in chain(roles, ranked[-1].key, stage)]
    return Plan(
        "retpo",
        settings,
        store,
        source,
        [*placed, *cleaning.stages, *search.indexes, *written, *ranked, *sides],
        lambda manifests: retpo_dataset(store, manifests, settings, ranked[-1].step),
        trunk="query_picks",
        others=(search.corpus, *cleaning.sources),
        written=(settings.instruction,),
    )


def candidates_stage(settings: RetpoSettings) -> Candidates:
    """The stage that writes queries."""
    fields = settings.candidates.model_dump(include={"methods", "pool", "fewest", "most", "human_base", "attempts"})
    sampling = settings.sampling(settings.candidates)
    return Candidates(sampling=sampling, **fields, first_turns=settings.first_turns)


def keyword_stages(settings: RetpoSettings) -> list[KeywordQueries]:
    """The stage that adds queries of keywords, where they are wanted."""
    candidates = settings.candidates
    if not candidates.keywords:
        return []
    fields = {"methods": candidates.keywords, "instructions": candidates.instructions, "attempts": candidates.attempts}
    return [KeywordQueries(sampling=settings.sampling(candidates), first_turns=settings.first_turns, **fields)]


def choices(settings: RetpoSettings, search: Search) -> Iterator[Stage]:
    """What is chosen from ranked queries: picks, pairs, pools, pairs that every retriever agrees on, negatives."""
    picks, pairs, depth = settings.picks, settings.pairs, settings.depth
    shape = {"first_turns": settings.first_turns, "retrievers": len(search.ranks)}
    preferred = {"per_turn": pairs.per_turn, "threshold": min(pairs.threshold, depth), "seed": settings.seed}
    yield QueryPicks(
        top=picks.top,
        threshold=min(picks.threshold, depth),
        keep_missed=picks.never_retrieved == "keep",
        depth=depth,
        **shape,
    )
    yield QueryPairs(**preferred, **shape)
    yield QueryPools(**shape)
    if len(search.ranks) > 1:
        yield ParetoPairs(**preferred, first_turns=settings.first_turns)
    if settings.negatives:
        yield MinedNegatives(count=settings.negatives, passages=search.corpus.key, **shape)
