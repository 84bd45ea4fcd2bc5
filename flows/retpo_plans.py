"""The plan of `retpo` (docs/papers.md#retpo), and of what `rank` shares with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.making.plan import Plan, Source, chain, file_source
from flows.methods.cleaning import clean, open_checked_store
from flows.retpo_report import retpo_dataset
from flows.retpo_settings import RetpoSettings
from schemas.turn_settings import CorpusSettings
from storage.artifacts import Store
from storage.plain_files.turns import PASSAGES, is_beir, turns_kind
from tasks.dedup.contamination import CleanTurns
from tasks.dedup.duplicates import UniqueTurns
from tasks.engines.engine import resolve
from tasks.retrieval.candidates import Candidates
from tasks.retrieval.comparisons import MinedNegatives, ParetoPairs, QueryPairs, QueryPicks, QueryPools
from tasks.retrieval.indexes import GoldPlaces
from tasks.retrieval.ranks import Ranks
from tasks.retrieval.retrievers import RetrieverSettings
from tasks.running.job import Planned

PASSAGES_PER_PART = 2048


@dataclass(frozen=True)
class Search:
    """What looking for passages needs: the corpus, the stages that make its indexes, and one stage per retriever."""

    corpus: Source
    indexes: Sequence[Planned]
    places: GoldPlaces
    ranks: Sequence[Ranks]


def plan_search(
    store: Store,
    corpus: CorpusSettings,
    retrievers: Sequence[RetrieverSettings],
    depth: int,
    ignore_identical_ids: bool = False,
) -> Search:
    """Resolve models and keys; an index that two retrievers need is made once. Raises InputError."""
    source = file_source(store, corpus, PASSAGES_PER_PART, PASSAGES)
    stages: dict[str, Planned] = {}
    ranks = []
    for retriever in retrievers:
        keys: dict[str, str] = {}
        for indexing in retriever.indexing():
            steps = chain({}, source.key, *indexing)
            stages.update((step.key, step) for step in steps)
            keys[steps[-1].stage.name] = steps[-1].key
        fields = {"passages": source.key, "depth": depth, "ignore_identical_ids": ignore_identical_ids}
        ranks.append(retriever.ranks(keys, **fields))
    return Search(source, list(stages.values()), GoldPlaces(passages=source.key), ranks)


def plan_retpo(settings: RetpoSettings) -> Plan:
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
    given, first = settings.candidates, settings.first_turns
    candidates = Candidates(
        sampling=settings.sampling(given),
        **given.model_dump(include={"methods", "pool", "fewest", "most", "human_base", "attempts"}),
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
    asked = chain(roles, cleaning.key, candidates)
    ranked = chain(roles, asked[-1].key, *search.ranks)
    many = {"first_turns": first, "retrievers": len(search.ranks)}
    picks, pairs, depth = settings.picks, settings.pairs, settings.depth
    preferred = {"per_turn": pairs.per_turn, "threshold": min(pairs.threshold, depth), "seed": settings.seed}
    stages = [
        QueryPicks(
            top=picks.top,
            threshold=min(picks.threshold, depth),
            keep_missed=picks.never_retrieved == "keep",
            depth=depth,
            **many,
        ),
        QueryPairs(**preferred, **many),
        QueryPools(**many),
    ]
    if len(search.ranks) > 1:
        stages.append(ParetoPairs(**preferred, first_turns=first))
    if settings.negatives:
        stages.append(MinedNegatives(count=settings.negatives, passages=search.corpus.key, **many))
    sides = [step for stage in stages for step in chain(roles, ranked[-1].key, stage)]
    return Plan(
        "retpo",
        settings,
        store,
        source,
        [*placed, *cleaning.stages, *search.indexes, *asked, *ranked, *sides],
        lambda made: retpo_dataset(store, made, settings, ranked[-1].step),
        trunk="query_picks",
        others=(search.corpus, *cleaning.sources),
        written=(settings.instruction,),
    )
