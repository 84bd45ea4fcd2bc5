"""The vectors of an artifact's texts, as one file that is mapped into memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.storage.artifacts import Store, read_manifest, read_part
from synthmill.tasks.cores import Array, MapUnordered
from synthmill.tasks.frames import FileStage
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed_whole
from synthmill.tasks.vectors.links import release

FILE = "vectors.npy"
Precision = Literal["float32", "float16"]


class Vectors(EmbeddingStage, FileStage):
    """Rows -> a vector each, in order: the mean of a long text's windows, zeros for a text that the model cannot read.
    Workers share the parts; a text that any stage embedded before is not embedded again.
    """

    name: ClassVar = "vectors"
    version: ClassVar = "1"
    needs: ClassVar = ("id",)

    columns: tuple[str, ...] = ("prompt",)
    precision: Precision = "float32"

    def build(
        self, store: Store, source: Manifest, folder: Path, tell: Callable[[int], None], map_unordered: MapUnordered
    ) -> None:
        parts = [seal for seal in source.parts if seal.rows]
        starts = np.cumsum([0, *(seal.rows for seal in parts)])
        jobs = [(store, seal, self.columns, self.embedder, number) for number, seal in enumerate(parts)]
        vectors: Any = None
        done = 0
        for number, block in map_unordered(embed_part, jobs):
            if vectors is None:
                shape = (int(starts[-1]), block.shape[1])
                vectors = np.lib.format.open_memmap(folder / FILE, "w+", np.dtype(self.precision), shape)  # type: ignore[no-untyped-call]
            vectors[starts[number] : starts[number + 1]] = block
            release(vectors)
            done += len(block)
            tell(done)
        if vectors is None:
            np.save(folder / FILE, np.zeros((0, 1), self.precision))
        else:
            vectors.flush()


def embed_part(store: Store, seal: PartSeal, columns: Sequence[str], embedder: str, number: int) -> tuple[int, Array]:
    """One part's vectors, with its number."""
    frame = pl.DataFrame(read_part(store, seal, columns))
    return number, embed_whole(embedder, texts_of(frame, columns), store.root)


def texts_of(frame: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """Per row, the columns' texts, joined by line breaks; of a column of messages, their contents."""
    texts = []
    for name in columns:
        column = pl.col(name)
        if isinstance(frame.schema[name], pl.List):
            column = column.list.eval(pl.element().struct.field("content")).list.join("\n")
        texts.append(column.cast(pl.String).fill_null(""))
    return frame.select(pl.concat_str(texts, separator="\n").alias("text"))["text"].to_list()


def vectors_in(store: Store, key: str) -> Array:
    """The vectors of a finished `vectors` artifact, as a memory map."""
    folder = store.files_folder(read_manifest(store.manifest_path(Vectors.name, key)))
    mapped: Array = np.load(folder / FILE, mmap_mode="r")
    return mapped
