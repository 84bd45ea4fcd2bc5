"""BM25 and a model, fused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.tasks.frames import FrameStage
from synthmill.tasks.retrieval.bm25 import Bm25, Hits
from synthmill.tasks.retrieval.bm25_ranks import Bm25Fields
from synthmill.tasks.retrieval.dense_ranks import DenseFields
from synthmill.tasks.retrieval.fused_lists import fuse_hits
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
