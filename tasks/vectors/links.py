"""Pairs of similar vectors, found tile by tile: matrix products, scanned for values that reach a threshold.

Rows stand in order of rank, the best first; of two similar rows, the later one is the candidate to drop. Memory does
not grow with the number of pairs: a tile lists a row's best-ranked neighbours, and marks the row if it has more.

Source: docs/papers.md#dedup, layer 3.
"""

import mmap
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from synthmill.tasks.cores import Array, MapUnordered, threads
from synthmill.tasks.vectors.layouts import BLOCK, TILE, Layout, layout_of

LISTED = 8  # neighbours of a row that one tile lists, the best-ranked
SLACK = 2e-5  # of a float32 product; a pair this near to the threshold is measured again in float64
CHUNK = 64
NEARBY = 1 << 17  # rows of a file that stay mapped while a tile, or a block of rows, is worked on
ANY = -1
EMPTY = np.empty(0, np.int64)


class Links(NamedTuple):
    """Rows and their neighbours that rank before them; both are ranks. more: rows with neighbours that are not listed;
    these rank after the listed ones of their tile.
    """

    row: Array
    neighbour: Array
    similarity: Array
    more: Array

    @classmethod
    def none(cls) -> "Links":
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int32))

    @classmethod
    def join(cls, parts: Iterable["Links"]) -> "Links":
        """All links in one list, sorted by row and neighbour, each pair once."""
        row, neighbour, similarity, more = (np.concatenate(arrays) for arrays in zip(cls.none(), *parts, strict=True))
        order = np.lexsort((neighbour, row))
        row, neighbour, similarity = row[order], neighbour[order], similarity[order]
        first = np.ones(len(row), np.bool_)
        first[1:] = (row[1:] != row[:-1]) | (neighbour[1:] != neighbour[:-1])
        return cls(row[first], neighbour[first], similarity[first], np.unique(more))


class Matrix(NamedTuple):
    """Unit vectors in order of rank. vectors: (rows, dimensions) float32 or float16, may be a memory map; order:
    per rank the row's index in it; groups: per rank a number. Only rows of the same group are compared; a row of group
    ANY is compared with rows of every group.
    """

    vectors: Array
    order: Array
    groups: Array

    @classmethod
    def of(cls, vectors: Array, order: Array | None = None, groups: Array | None = None) -> "Matrix":
        order = np.arange(len(vectors)) if order is None else order
        return cls(vectors, order, np.zeros(len(order), np.int32) if groups is None else groups)

    @property
    def rows(self) -> int:
        return len(self.order)

    def take(self, ranks: Array) -> Array:
        """float32 copies of some rows. The kernel maps what lies beside them, too, and soon a whole file: where they
        are scattered, it leaves.
        """
        places = self.order[ranks]
        copies = np.asarray(self.vectors[places], np.float32)
        if len(places) >= TILE and np.ptp(places) > NEARBY:
            release(self.vectors)
        return copies

    def similarities(self, first: Array, second: Array) -> Array:
        """Inner products of pairs in float64, so that they do not depend on the tile that found the pair."""
        products = np.empty(len(first))
        for start in range(0, len(first), BLOCK):
            span = slice(start, start + BLOCK)
            left, right = (self.take(ranks[span]).astype(np.float64) for ranks in (first, second))
            products[span] = np.einsum("ij,ij->i", left, right)
        return np.round(products, 6)


def release(mapped: Array) -> None:
    """Let what was read, or written, of a memory map leave this process's memory; it stays in the file."""
    if isinstance(mapped.base, mmap.mmap):
        mapped.base.madvise(mmap.MADV_DONTNEED)


class Near(NamedTuple):
    """What a search compares first. matrix: of the same ranks; lowest: the product that rows near each other reach;
    listed: how many that do a tile lists for a row, the best-ranked, before they are measured.
    """

    matrix: Matrix
    lowest: float
    listed: int = LISTED


class Search(NamedTuple):
    """The inputs of a search for links. queries, alive: masks over ranks; a query row's alive neighbours are linked.
    near: what is compared first, by default the matrix itself.
    """

    matrix: Matrix
    layout: Layout
    threshold: float
    queries: Array
    alive: Array
    near: Near | None = None

    @property
    def first(self) -> Near:
        return self.near or Near(self.matrix, self.threshold - SLACK)

    def tiles(self, tiles: Sequence[int]) -> Links:
        """Links of some tiles, on all cores that this process may use."""
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads()) as pool:
            return Links.join(pool.map(self.tile, tiles))

    def tile(self, tile: int) -> Links:
        """At most LISTED neighbours per row, each pair's similarity measured in float64."""
        try:
            return self.links_of(tile, self.first.listed)
        finally:
            release(self.matrix.vectors)

    def links_of(self, tile: int, most: int) -> Links:
        """most: how many neighbours of a row are listed before they are measured."""
        matrix, lowest, _ = self.first
        pairs: list[tuple[Array, Array]] = []
        loaded = vectors = EMPTY
        for left, right, falling in self.layout.pairs(tile, self.queries, self.alive):
            if not len(left) or not len(right):
                continue
            if len(loaded) < len(right) or not np.array_equal(loaded[: len(right)], right):
                loaded, vectors = right, matrix.take(right)
            rows, columns = find_alike(matrix, left, right, vectors[: len(right)], lowest, falling, most)
            if len(rows):
                pairs.append((left[rows], right[columns]))
        if not pairs:
            return Links.none()
        first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
        row, neighbour = np.maximum(first, second), np.minimum(first, second)
        is_query = self.queries[row] & self.alive[neighbour]
        row, neighbour = row[is_query], neighbour[is_query]
        order = np.lexsort((neighbour, row))
        row, neighbour = row[order], neighbour[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        unmeasured, row, neighbour = np.unique(row[place >= most]), row[place < most], neighbour[place < most]
        similarity = self.matrix.similarities(row, neighbour)
        good = similarity >= self.threshold
        row, neighbour, similarity = row[good], neighbour[good], similarity[good]
        if len(np.setdiff1d(unmeasured, row)):  # all listed neighbours of a row lie below the threshold
            return self._replace(near=None).links_of(tile, LISTED if self.near else len(self.queries))
        place = np.arange(len(row)) - np.searchsorted(row, row)
        more, listed = np.union1d(unmeasured, row[place >= LISTED]), place < LISTED
        return Links(row[listed], neighbour[listed], similarity[listed], more)


def find_alike(
    matrix: Matrix, left: Array, right: Array, vectors: Array, threshold: float, falling: bool, most: int = LISTED
) -> tuple[Array, Array]:
    """(indices into left, indices into right) of pairs of the same group whose product reaches the threshold. falling:
    only pairs whose left rank is the larger. vectors: those of `right`. Lists at most `most` + 1 neighbours per row.
    """
    product = matrix.take(left) @ vectors.T
    groups = matrix.groups[left], matrix.groups[right]
    right_counts = np.zeros(len(right), np.int32)
    count = scan(product, threshold, left, right, *groups, falling, most, right_counts, EMPTY, EMPTY)
    rows, columns = np.empty(count, np.int64), np.empty(count, np.int64)
    if count:
        right_counts[:] = 0
        scan(product, threshold, left, right, *groups, falling, most, right_counts, rows, columns)
    return rows, columns


@njit(nogil=True, cache=True, inline="always")
def groups_differ(first, second):  # type: ignore[no-untyped-def]
    """Whether rows of these two groups are never compared."""
    return first != second and first != ANY and second != ANY


@njit(nogil=True, cache=True, fastmath=True)
def scan(product, threshold, lefts, rights, left_groups, right_groups, falling, most, right_counts, rows, columns):  # type: ignore[no-untyped-def]
    """Count the cells that reach the threshold; write their indices into rows and columns while there is room."""
    count = 0
    for i in range(product.shape[0]):
        left_count = 0
        for start in range(0, product.shape[1], CHUNK):
            until = min(start + CHUNK, product.shape[1])
            if falling and (left_count > most or rights[start] >= lefts[i]):
                break
            highest = product[i, start]
            for j in range(start, until):
                highest = max(highest, product[i, j])
            if highest < threshold:
                continue
            for j in range(start, until):
                if product[i, j] < threshold or lefts[i] == rights[j]:
                    continue
                if groups_differ(left_groups[i], right_groups[j]):
                    continue
                if lefts[i] > rights[j]:
                    left_count += 1
                    if left_count > most + 1:
                        continue
                else:
                    right_counts[j] += 1
                    if falling or right_counts[j] > most + 1:
                        continue
                if count < len(rows):
                    rows[count], columns[count] = i, j
                count += 1
    return count


class SpreadContext(NamedTuple):
    """Workers, and the folder from which they read their input; a matrix's vectors must then be a memory map."""

    map_unordered: MapUnordered
    folder: Path


TASKS = 64  # into which one search, or one pass over a matrix, is cut for workers


def links_in(search: Search, workers: SpreadContext | None = None) -> Links:
    """All links of a search, found on this process's cores or by workers."""
    work = search.layout.work
    if workers is None:
        return search.tiles(range(len(work)))
    share = (np.cumsum(work) * (TASKS / work.sum())).astype(int)
    groups = [group for n in range(TASKS + 1) if (group := np.flatnonzero(share == n).tolist())]
    masks = {"threshold": search.threshold, "queries": search.queries, "alive": search.alive}
    near = search.first
    with (
        saved(workers.folder, search.matrix, **search.layout._asdict(), **masks) as path,
        saved(workers.folder, near.matrix, lowest=near.lowest, listed=near.listed) as near_path,
    ):
        return Links.join(workers.map_unordered(links_of_tiles, [(path, near_path, group) for group in groups]))


def links_of_tiles(path: Path, near_path: Path, tiles: Sequence[int]) -> Links:
    """Links of some tiles of a saved search. Short vectors stay in memory, which workers share."""
    (matrix, arrays), (first, limits) = load_matrix(path), load_matrix(near_path)
    is_short = first.vectors.shape[1] < matrix.vectors.shape[1]
    near = Near(
        first._replace(vectors=np.asarray(first.vectors)) if is_short else matrix,
        float(limits["lowest"]),
        int(limits["listed"]),
    )
    search = Search(matrix, layout_of(arrays), float(arrays["threshold"]), arrays["queries"], arrays["alive"], near)
    return search.tiles(tiles)


def map_blocks(
    matrix: Matrix, work: Callable[..., tuple[Array, ...]], *arguments: Any, workers: SpreadContext | None = None
) -> list[Array]:
    """Call work(matrix, ranks, *arguments), a module's function, for each block of rows as they follow each other in
    the file, so that it is read in sequence; concatenate its arrays. A block's ranks rise; those of two blocks do not.
    """
    by_place = np.argsort(matrix.order, kind="stable").astype(np.int32)
    starts = range(0, matrix.rows, BLOCK)
    if workers is None:
        return run_blocks(matrix, by_place, starts, work, arguments)
    size = -(-len(starts) // TASKS)
    with saved(workers.folder, matrix, by_place=by_place) as path:
        jobs = [(path, n, starts[n : n + size], work, arguments) for n in range(0, len(starts), size)]
        results = [arrays for _, arrays in sorted(workers.map_unordered(run_blocks_of, jobs), key=itemgetter(0))]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def run_blocks(
    matrix: Matrix, by_place: Array, starts: range, work: Callable[..., tuple[Array, ...]], arguments: Any
) -> list[Array]:
    def run_block(start: int) -> tuple[Array, ...]:
        try:
            return work(matrix, np.sort(by_place[start : start + BLOCK]), *arguments)
        finally:
            release(matrix.vectors)

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads()) as pool:
        return [np.concatenate(parts) for parts in zip(*pool.map(run_block, starts), strict=True)]


def run_blocks_of(
    path: Path, number: int, starts: range, work: Callable[..., tuple[Array, ...]], arguments: Any
) -> tuple[int, list[Array]]:
    matrix, arrays = load_matrix(path)
    return number, run_blocks(matrix, arrays["by_place"], starts, work, arguments)


@contextmanager
def saved(folder: Path, matrix: Matrix, **arrays: Any) -> Iterator[Path]:
    """A file of a name of its own with a matrix and more arrays, but only the path of its vectors, a memory map."""
    mapped = matrix.vectors
    assert isinstance(mapped, np.memmap)
    path = folder / f"matrix-{secrets.token_hex(4)}.npz"
    try:
        with path.open("wb") as file:
            np.savez(file, order=matrix.order, groups=matrix.groups, vectors=str(mapped.filename), **arrays)
        yield path
    finally:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=2)  # of one search
def load_matrix(path: Path) -> tuple[Matrix, dict[str, Array]]:
    with np.load(path) as file:
        arrays = dict(file)
    vectors = np.load(str(arrays.pop("vectors")), mmap_mode="r")
    return Matrix(vectors, arrays.pop("order"), arrays.pop("groups")), arrays
