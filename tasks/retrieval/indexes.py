"""Stages that make a corpus searchable, each once per corpus and settings: places of gold, vectors, indexes."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.retpo import Passage, Turn
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, read_artifact, read_manifest, read_part
from synthmill.tasks.cores import MapUnordered
from synthmill.tasks.frames import ArtifactKey, FileStage, FrameStage, RunContext
from synthmill.tasks.retrieval.bm25 import Words, build_bm25
from synthmill.tasks.retrieval.dense import build_dense
from synthmill.tasks.vectors.embeddings import embed, embedder_name

UNKNOWN = -2  # the place of a passage that is not in the corpus


@lru_cache(maxsize=2)
def passage_places(root: Path, key: str) -> pl.DataFrame:
    """The ids of a corpus (its artifact's key) with their places."""
    store = Store(root)
    manifest = read_manifest(store.manifest_path("passages", key))
    return pl.DataFrame(read_artifact(store, manifest, ["id"])).with_row_index("place").cast({"place": pl.Int64})


def locate(root: Path, key: str, passages: pl.Series) -> pl.Series:
    """The places of passages by id; `UNKNOWN` for those that are not in the corpus."""
    ids = pl.DataFrame({"id": passages}, schema={"id": pl.String})
    located = ids.join(passage_places(root, key), on="id", how="left", maintain_order="left")
    return located["place"].fill_null(UNKNOWN)


def own_passages(root: Path, key: str, turns: pl.Series) -> int:
    """How many of these turns have a passage of their own id."""
    return int((locate(root, key, turns.unique()) >= 0).sum())


class GoldPlaces(FrameStage):
    """Turns -> the same with the places of their gold passages. Drops: unknown_passage, when the corpus has none.

    Other passages that the corpus lacks stay: they count as missed, as in trec_eval.
    """

    name: ClassVar = "gold_places"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "gold")
    adds: ClassVar = tuple(Turn.model_fields)

    passages: ArtifactKey = Field("", description="filled in: the key of the corpus")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        gold = frame.select("id", "gold").explode("gold").unnest("gold")
        gold = gold.with_columns(place=locate(store, self.passages, gold["passage"]))
        by_turn = gold.group_by("id", maintain_order=True).agg(
            gold=pl.struct("passage", "relevance", "place"),
            known=(pl.col("place") >= 0).any(),
            first=pl.col("passage").first(),
        )
        lost = by_turn.filter(~pl.col("known"))
        located = frame.drop("gold").join(by_turn.filter("known").select("id", "gold"), on="id", maintain_order="left")
        drops = [
            Dropped(id=row, reason="unknown_passage", detail=f"{passage} is not in the corpus")
            for row, passage in lost.select("id", "first").iter_rows()
        ]
        return located.select(frame.columns), drops


def passage_texts(frame: pl.DataFrame) -> list[str]:
    """The texts that retrievers index."""
    return [Passage(id=i, title=t, text=x).indexed for i, t, x in frame.select("id", "title", "text").iter_rows()]


class PassageVectors(FrameStage):
    """Passages -> their vectors, part by part, so that many workers share it and nothing is embedded twice."""

    name: ClassVar = "passage_vectors"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "title", "text")
    adds: ClassVar = ("id", "vector")
    embeds: ClassVar = True

    model: str = "minilm"
    prompt: str = ""
    embedder_identity: str = Field("", description="filled in from `model`")

    def bound(self, context: RunContext) -> Self:
        """Raises InputError when there is no such embedder."""
        return self.model_copy(update={"embedder_identity": embedder_name(self.model)})

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        vectors = embed(self.model, [self.prompt + text for text in passage_texts(frame)], store)
        return frame.select("id").with_columns(pl.Series("vector", vectors)), []


class Bm25Index(FileStage):
    """Passages -> a BM25 index."""

    name: ClassVar = "bm25_index"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "title", "text")

    k1: float = 1.2
    b: float = 0.75
    stopwords: str = "en"
    stemmer: str = "english"

    def build(
        self, store: Store, source: Manifest, folder: Path, tell: Callable[[int], None], map_unordered: MapUnordered
    ) -> None:
        texts = (text for frame in parts_of(store, source, tell) for text in passage_texts(frame))
        build_bm25(texts, folder, k1=self.k1, b=self.b, words=Words(self.stopwords, self.stemmer))


class DenseIndex(FileStage):
    """Passage vectors -> an index of them: the vectors themselves (flat), IVF or HNSW."""

    name: ClassVar = "dense_index"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "vector")

    kind: str = "auto"

    def build(
        self, store: Store, source: Manifest, folder: Path, tell: Callable[[int], None], map_unordered: MapUnordered
    ) -> None:
        vectors = (frame["vector"].to_numpy().astype(np.float32) for frame in parts_of(store, source, tell))
        first = next(vectors)
        build_dense(chain([first], vectors), source.rows, first.shape[1], folder, self.kind)


def parts_of(store: Store, source: Manifest, tell: Callable[[int], None]) -> Iterator[pl.DataFrame]:
    """An artifact's parts that have rows, one at a time."""
    done = 0
    for seal in source.parts:
        if seal.rows:
            yield pl.DataFrame(read_part(store, seal))
        done += seal.rows
        tell(done)
