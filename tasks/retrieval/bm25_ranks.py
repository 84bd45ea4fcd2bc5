"""BM25 as a retriever."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.tasks.frames import FrameStage
from synthmill.tasks.retrieval.bm25 import Bm25, Words
from synthmill.tasks.retrieval.indexes import Bm25Index
from synthmill.tasks.retrieval.ranks import Ranks
from synthmill.tasks.retrieval.retrievers import ByText, Retriever, RetrieverSettings, index_folder

BM25_PRESETS = {"topiocqa": {"k1": 0.9, "b": 0.4}, "qrecc": {"k1": 0.82, "b": 0.68}}
"""The paper's values by dataset, written bm25:topiocqa and bm25:qrecc."""


class Bm25Fields(RetrieverSettings):
    """BM25's settings, alone and in a fusion."""

    index_stages: ClassVar[tuple[str, ...]] = (Bm25Index.name,)

    k1: float = Field(1.2, ge=0, le=1000, description="how fast repeated words stop counting")
    b: float = Field(0.75, ge=0, le=1, description="how much long passages lose")
    stopwords: str = Field("en", description="a language's list (en, de, fr, ...), or none")
    stemmer: str = Field("english", description="a Snowball stemmer, or none")

    def words(self) -> Words:
        return Words(self.stopwords, self.stemmer)

    def indexing(self) -> list[list[FrameStage]]:
        self.words()  # raises InputError now, not when the index is made
        return [[Bm25Index(k1=self.k1, b=self.b, stopwords=self.stopwords, stemmer=self.stemmer)]]


class Bm25Settings(Bm25Fields):
    """BM25: passages that share words with the query."""

    short_forms: ClassVar = ("bm25", *(f"bm25:{preset}" for preset in BM25_PRESETS))

    kind: Literal["bm25"] = "bm25"

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        kind, colon, preset = spec.partition(":")
        if kind == "bm25" and colon:
            return BM25_PRESETS.get(preset)
        return {} if kind == "bm25" else None

    def ranks(self, indexes: Mapping[str, str], **fields: Any) -> "Bm25Ranks":
        return Bm25Ranks(**self.fields_of_ranks(indexes), **fields)


class Bm25Ranks(Ranks):
    """Turns with queries -> the same with the ranks that BM25 gives to the gold passages."""

    name: ClassVar = "bm25_ranks"

    retriever: Bm25Settings

    def open(self, root: Path) -> Retriever:
        [index] = self.indexes
        return ByText(Bm25(index_folder(root, *index), self.retriever.words()))
