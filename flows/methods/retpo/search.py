"""What looking for passages needs: a corpus, indexes, ranks; `retpo` and `rank` share it."""

from collections.abc import Sequence
from dataclasses import dataclass

from synthmill.flows.making.plan import Source, chain, file_source
from synthmill.schemas.turn_settings import CorpusSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.turns import PASSAGES
from synthmill.tasks.retrieval.indexes import GoldPlaces
from synthmill.tasks.retrieval.ranks import Ranks
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from synthmill.tasks.running.job import Planned

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
