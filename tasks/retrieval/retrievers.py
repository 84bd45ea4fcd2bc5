"""What a retriever is: settings that know their indexes and the stage that ranks by it.

Each kind is one module of this package. Their settings form a union that is found by listing this folder
(schemas/kinds.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field

from synthmill.schemas.kinds import KindSettings
from synthmill.storage.artifacts import Store, read_manifest
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.retrieval.bm25 import Hits

if TYPE_CHECKING:
    from synthmill.tasks.retrieval.ranks import Ranks

LARGEST = 1e30  # score
Id = tuple[str, int]


class RetrieverSettings(KindSettings):
    """A retriever: it finds passages for queries."""

    package: ClassVar = "synthmill.tasks.retrieval"
    noun: ClassVar = "retriever"
    index_stages: ClassVar[tuple[str, ...]] = ()
    """The stages that make its indexes."""

    name: str = Field("", pattern=r"^(\w[\w-]*)?$", description="in columns and configurations; default: the kind")

    @property
    def label(self) -> str:
        return self.name or self.kind

    def indexing(self) -> list[list[FrameStage]]:
        """Per index, the stages that make it from the corpus. Raises InputError when its model is not there."""
        return []

    def content(self) -> str:
        """What identifies it besides its settings: its model's weights or its run's content. Raises InputError."""
        return ""

    def ranks(self, indexes: Mapping[str, str], **fields: Any) -> "Ranks":
        """The stage that adds its ranks to turns; indexes: key by index stage. Raises InputError."""
        raise TypeError(f"{type(self).__name__} must define ranks(indexes)")

    def fields_of_ranks(self, indexes: Mapping[str, str]) -> dict[str, Any]:
        """The fields that the stages of all kinds share."""
        keys = tuple((stage, indexes[stage]) for stage in self.index_stages)
        return {"retriever": self, "content": self.content(), "indexes": keys}


class Retriever(Protocol):
    def search(self, ids: Sequence[Id], queries: Sequence[str], depth: int) -> Hits:
        """The best passages of each query; ids: turn and number of each, for runs."""


class TextRetriever(Protocol):
    def search(self, queries: Sequence[str], depth: int) -> Hits:
        """The best passages of each query."""


class ByText:
    """A retriever that needs the queries only; it searches for the same string once."""

    def __init__(self, retriever: TextRetriever) -> None:
        self.retriever = retriever

    def search(self, ids: Sequence[Id], queries: Sequence[str], depth: int) -> Hits:
        number = {query: n for n, query in enumerate(dict.fromkeys(queries))}
        hits = self.retriever.search(list(number), depth)
        rows = [number[query] for query in queries]
        return Hits(hits.places[rows], hits.scores[rows])


def index_folder(root: Path, stage: str, key: str) -> Path:
    """Where the files of an index lie."""
    store = Store(root)
    return store.files_folder(read_manifest(store.manifest_path(stage, key)))


def finite_score(value: str | float) -> float:
    """A score; raises ValueError for nan and infinity, too."""
    number = float(value)
    if not abs(number) <= LARGEST:
        raise ValueError(f"{value!s:.40} is no score")
    return number
