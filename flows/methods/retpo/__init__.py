"""From conversations and a corpus, rows that teach a query rewriter what a retriever likes.

Source: docs/papers.md#retpo.
"""

from flows.making.cleaning import clean, open_checked_store
from flows.making.plan import Plan, chain, file_source
from flows.methods.retpo.dataset import retpo_dataset
from flows.methods.retpo.search import plan_search
from flows.methods.retpo.settings import RetpoSettings
from storage.plain_files.turns import is_beir, turns_kind
from tasks.dedup.contamination import CleanTurns
from tasks.dedup.duplicates import UniqueTurns
from tasks.engines.engine import resolve
from tasks.retrieval.candidates import Candidates
from tasks.retrieval.comparisons import MinedNegatives, ParetoPairs, QueryPairs, QueryPicks, QueryPools


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
    candidate_settings, first = settings.candidates, settings.first_turns
    candidates = Candidates(
        sampling=settings.sampling(candidate_settings),
        **candidate_settings.model_dump(include={"methods", "pool", "fewest", "most", "human_base", "attempts"}),
        first_turns=first,
    )
    placed = chain(roles, source.key, search.places)
    cleaning = clean(
        "retpo",
        settings,
        store,
        placed[-1].key,
        CleanTurns,
        UniqueTurns,
        columns=("history", "question"),
        rows_per_part=settings.rows_per_part,
    )
    written = chain(roles, cleaning.key, candidates)
    ranked = chain(roles, written[-1].key, *search.ranks)
    shape = {"first_turns": first, "retrievers": len(search.ranks)}
    picks, pairs, depth = settings.picks, settings.pairs, settings.depth
    preferred = {"per_turn": pairs.per_turn, "threshold": min(pairs.threshold, depth), "seed": settings.seed}
    stages = [
        QueryPicks(
            top=picks.top,
            threshold=min(picks.threshold, depth),
            keep_missed=picks.never_retrieved == "keep",
            depth=depth,
            **shape,
        ),
        QueryPairs(**preferred, **shape),
        QueryPools(**shape),
    ]
    if len(search.ranks) > 1:
        stages.append(ParetoPairs(**preferred, first_turns=first))
    if settings.negatives:
        stages.append(MinedNegatives(count=settings.negatives, passages=search.corpus.key, **shape))
    sides = [step for stage in stages for step in chain(roles, ranked[-1].key, stage)]
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
