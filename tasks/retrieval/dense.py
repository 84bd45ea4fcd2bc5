"""Dense retrieval: passages as unit vectors, found by inner product, exactly (flat) or through faiss's IVF or HNSW."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthmill.tasks.cores import Array, threads
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.vectors.embeddings import embed

EXACT_UP_TO = 1_000_000  # passages
SEEN_PER_LIST = 64  # vectors in an IVF list, at least on average
BLOCK = 1 << 16  # vectors added at a time
SLACK = 16  # hits beyond the depth, so that equal scores at its end fall in the corpus's order
BATCH = 1024  # queries at a time, or up to twice as many: faiss is five times slower below some 350
SCORES_ON_GPU = 1 << 28  # products at a time, 1 GB
INDEX, VECTORS = "index.faiss", "vectors.npy"


def resolve_kind(kind: str, passages: int) -> str:
    """The kind of index; `auto` depends on the number of passages."""
    return ("flat" if passages <= EXACT_UP_TO else "ivf") if kind == "auto" else kind


def build_dense(blocks: Iterable[Array], passages: int, dimensions: int, folder: Path, kind: str) -> None:
    """Write the index; blocks: (passages, dimensions) float32, in the order of the corpus. IVF and HNSW are made from
    the written vectors, block by block, so that no second copy of them is in memory.
    """
    import faiss

    faiss.omp_set_num_threads(threads())
    kind = resolve_kind(kind, passages)
    shape = (passages, dimensions)
    vectors = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float32, shape)  # type: ignore[no-untyped-call]
    start = 0
    for block in blocks:
        vectors[start : start + len(block)] = block
        start += len(block)
    vectors.flush()
    if kind == "flat":
        return
    lists = min(int(4 * passages**0.5), passages // SEEN_PER_LIST) or 1
    spec = "HNSW32" if kind == "hnsw" else f"IVF{lists},Flat"
    index: Any = faiss.index_factory(dimensions, spec, faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(vectors[:: max(1, passages // (4 * SEEN_PER_LIST * lists))]))
    for start in range(0, passages, BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
    if kind == "ivf":
        index.nprobe = max(8, index.nlist // 16)
    else:
        index.hnsw.efSearch = 256
    faiss.write_index(index, str(folder / INDEX))
    (folder / VECTORS).unlink()


class Dense:
    """A searchable index, memory-mapped; on a GPU where there is one."""

    def __init__(self, folder: Path, model: str, prompt: str, store: Path) -> None:
        import faiss

        self.model, self.prompt, self.store = model, prompt, store
        self.vectors = np.load(folder / VECTORS, mmap_mode="r") if (folder / VECTORS).exists() else None
        if self.vectors is None:
            self.index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC)
        self._on_gpu: Any = None

    def search(self, queries: Sequence[str], depth: int) -> Hits:
        """The `depth` best passages of each query; equal scores (to six places) in the order of the corpus."""
        vectors = embed(self.model, [self.prompt + query for query in queries], self.store)
        if not len(vectors):
            return Hits(np.zeros((0, depth), np.int32), np.zeros((0, depth), np.float32))
        parts = [self.find(batch, depth) for batch in np.array_split(vectors, max(1, len(vectors) // BATCH))]
        return Hits(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def find(self, vectors: Array, depth: int) -> Hits:
        """The same for vectors, (queries, dimensions) float32."""
        import faiss

        faiss.omp_set_num_threads(threads())
        if self.vectors is None:
            scores, places = self.index.search(vectors, min(depth + SLACK, self.index.ntotal))
        else:
            count = min(depth + SLACK, len(self.vectors))
            best = self._gpu_search(vectors, count)
            scores, places = best or faiss.knn(vectors, self.vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        return in_order(places, scores, depth)

    def _gpu_search(self, vectors: Array, count: int) -> tuple[Array, Array] | None:
        import torch

        if not torch.cuda.is_available():
            return None
        if self._on_gpu is None:
            self._on_gpu = torch.from_numpy(np.array(self.vectors)).cuda()
        return top_by_product(vectors, self._on_gpu, count)


def top_by_product(vectors: Array, passages: Any, count: int) -> tuple[Array, Array]:
    """(scores, places) of the best inner products; passages: a torch tensor, where the work is done."""
    import torch

    batches = torch.from_numpy(vectors).split(max(1, SCORES_ON_GPU // len(passages)))
    best = [torch.topk(queries.to(passages.device) @ passages.T, count, dim=1) for queries in batches]
    scores, places = (torch.cat(parts).cpu().numpy() for parts in zip(*best, strict=True))
    return scores, places


def in_order(places: Array, scores: Array, depth: int) -> Hits:
    """Hits cut at `depth`, in order of score (rounded to six places: the last bits depend on the batch) and place; -1
    and scores of 0 fill what is missing.
    """
    scores = np.where(places >= 0, np.round(scores, 6), -np.inf)
    order = np.lexsort((places, -scores), axis=1)[:, :depth]
    scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    missing = depth - places.shape[1]
    places = np.pad(places, ((0, 0), (0, missing)), constant_values=-1)
    scores = np.pad(np.where(places[:, : scores.shape[1]] >= 0, scores, 0), ((0, 0), (0, missing)))
    return Hits(places.astype(np.int32), scores.astype(np.float32))
