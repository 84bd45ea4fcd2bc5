"""BM25 and a model, fused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from synthmill.tasks.frames import FrameStage
from synthmill.tasks.retrieval.bm25 import Bm25, Hits
from synthmill.tasks.retrieval.bm25_ranks import Bm25Fields
from synthmill.tasks.retrieval.dense_ranks import DenseFields
from synthmill.tasks.retrieval.ranks import Ranks
from synthmill.tasks.retrieval.retrievers import ByText, Retriever, TextRetriever, index_folder


class FusionSettings(DenseFields, Bm25Fields):
    """BM25 and a model, fused by reciprocal ranks."""

    index_stages: ClassVar = (*Bm25Fields.index_stages, *DenseFields.index_stages)

    kind: Literal["fusion"] = "fusion"
    rrf_k: int = Field(60, ge=1, description="1 / (rrf_k + rank), summed over both")

    def indexing(self) -> list[list[FrameStage]]:
        return [*Bm25Fields.indexing(self), *DenseFields.indexing(self)]

    def ranks(self, indexes: Mapping[str, str], **fields: Any) -> "FusionRanks":
        return FusionRanks(**self.fields_of_ranks(indexes), **fields)


class FusionRanks(Ranks):
    """Turns with queries -> the same with the ranks that BM25 and a model together give to the gold passages."""

    name: ClassVar = "fusion_ranks"
    embeds: ClassVar = True

    retriever: FusionSettings

    def open(self, root: Path) -> Retriever:
        words, meaning = (index_folder(root, *index) for index in self.indexes)
        searches = (Bm25(words, self.retriever.words()), self.retriever.search_in(meaning, root))
        return ByText(Fusion(searches, self.retriever.rrf_k))


class Fusion:
    """Several retrievers as one."""

    def __init__(self, retrievers: Sequence[TextRetriever], rrf_k: int) -> None:
        self.retrievers, self.rrf_k = retrievers, rrf_k

    def search(self, queries: Sequence[str], depth: int) -> Hits:
        return fuse_hits([retriever.search(queries, depth) for retriever in self.retrievers], self.rrf_k)


def fuse_hits(lists: Sequence[Hits], rrf_k: int) -> Hits:
    """Reciprocal-rank fusion of two lists: a passage's score is the sum of 1 / (rrf_k + rank) over those that have it;
    equal scores in the order of the corpus. Source: Cormack, Clarke and Büttcher, SIGIR 2009.
    """
    depth = lists[0].places.shape[1]
    places = np.concatenate([hits.places for hits in lists], axis=1)
    scores = np.tile(1 / (rrf_k + 1 + np.arange(depth)), len(lists)) * (places >= 0)
    order = np.argsort(places, axis=1, kind="stable")
    places, scores = np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1)
    same = (places[:, 1:] == places[:, :-1]) & (places[:, 1:] >= 0)  # in both lists: the second entry takes the sum
    scores[:, 1:] += np.where(same, scores[:, :-1], 0)
    scores[:, :-1] = np.where(same, 0, scores[:, :-1])
    order = np.lexsort((places, -scores), axis=1)[:, :depth]
    scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return Hits(np.where(scores > 0, places, -1).astype(np.int32), scores.astype(np.float32))
