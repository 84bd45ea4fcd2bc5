"""A sentence-transformers model as a retriever."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.local_paths import LocalPath
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.retrieval.dense import Dense
from synthmill.tasks.retrieval.indexes import DenseIndex, PassageVectors
from synthmill.tasks.retrieval.ranks import Ranks
from synthmill.tasks.retrieval.retrievers import ByText, Retriever, RetrieverSettings, index_folder
from synthmill.tasks.vectors.embeddings import embedder_name


class DenseFields(RetrieverSettings):
    """A model's settings, alone and in a fusion."""

    index_stages: ClassVar[tuple[str, ...]] = (DenseIndex.name,)

    model: LocalPath = Field("minilm", description="minilm (embedded), a Hub id or a folder")
    query_prompt: str = Field("", description="what the model wants before a query")
    passage_prompt: str = Field("", description="what the model wants before a passage")
    index: Literal["auto", "flat", "ivf", "hnsw"] = Field(
        "auto", description="exact (flat) up to a million passages, ivf above"
    )

    def indexing(self) -> list[list[FrameStage]]:
        return [[PassageVectors(model=self.model, prompt=self.passage_prompt), DenseIndex(kind=self.index)]]

    def content(self) -> str:
        return embedder_name(self.model)

    def search_in(self, folder: Path, root: Path) -> Dense:
        return Dense(folder, self.model, self.query_prompt, root)


class DenseSettings(DenseFields):
    """A sentence-transformers model: passages whose vectors are near the query's."""

    short_forms: ClassVar = ("dense", "dense:MODEL")

    kind: Literal["dense"] = "dense"

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        kind, _, model = spec.partition(":")
        if kind == "dense" and model:
            return {"model": model}
        return super().from_spec(spec)

    def ranks(self, indexes: Mapping[str, str], **fields: Any) -> "DenseRanks":
        return DenseRanks(**self.fields_of_ranks(indexes), **fields)


class DenseRanks(Ranks):
    """Turns with queries -> the same with the ranks that a sentence-transformers model gives to the gold passages."""

    name: ClassVar = "dense_ranks"
    embeds: ClassVar = True

    retriever: DenseSettings

    def open(self, root: Path) -> Retriever:
        [index] = self.indexes
        return ByText(self.retriever.search_in(index_folder(root, *index), root))
