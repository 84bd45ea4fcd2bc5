"""Pairs of vectors that are alike, found tile by tile: matrix products, looked through for what reaches a threshold.

Rows stand in the order of their rank, the best first, so that of two rows that are alike the later one may have to go.
Nothing here grows with the number of pairs: a tile lists a row's best-ranked neighbours, and says that there are more.

Source: docs/papers.md#dedup, layer 3.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from tasks.cores import Array, MapUnordered, threads

TILE = 256  # rows of a product that is looked through at once: it stays in the cache
BLOCK = 4096  # rows that are read at once where all are read
LISTED = 8  # neighbours of a row that one tile lists, the best-ranked
SLACK = 2e-5  # of a float32 product; what is within it of the threshold is measured again
CHUNK = 64
ANY = -1
NOWHERE = np.empty(0, np.int64)


class Links(NamedTuple):
    """Rows and their neighbours that rank before them: both are places in the order of rank. more: rows that have
    neighbours beyond those listed, which all rank after the listed ones of their tile.
    """

    row: Array
    other: Array
    similarity: Array
    more: Array

    @classmethod
    def none(cls) -> "Links":
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int32))

    @classmethod
    def joined(cls, many: Iterable["Links"]) -> "Links":
        """One list of all, by row and rank of the neighbour, each pair once."""
        row, other, similarity, more = (np.concatenate(part) for part in zip(cls.none(), *many, strict=True))
        order = np.lexsort((other, row))
        row, other, similarity = row[order], other[order], similarity[order]
        first = np.ones(len(row), np.bool_)
        first[1:] = (row[1:] != row[:-1]) | (other[1:] != other[:-1])
        return cls(row[first], other[first], similarity[first], np.unique(more))


class Matrix(NamedTuple):
    """Unit vectors in the order of rank. vectors: (rows, dimensions) float32 or float16, may be a memory map; order:
    per rank the place in it; groups: per rank a number, and only rows of one group are ever alike; ANY is of each.
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
        """float32 copies of some rows."""
        return np.asarray(self.vectors[self.order[ranks]], np.float32)

    def measured(self, one: Array, other: Array) -> Array:
        """Inner products of pairs in float64: the same whatever they were found in."""
        found = np.empty(len(one))
        for start in range(0, len(one), BLOCK):
            some = slice(start, start + BLOCK)
            left, right = (self.take(ranks[some]).astype(np.float64) for ranks in (one, other))
            found[some] = np.einsum("ij,ij->i", left, right)
        return np.round(found, 6)


class Everything(NamedTuple):
    """Every row against every other: the layout of an exact search."""

    rows: int

    @property
    def work(self) -> Array:
        """Per tile a number that grows with the time it takes."""
        return np.arange(1, -(-self.rows // TILE) + 1, dtype=np.float64)

    def pairs(self, tile: int, asked: Array, alive: Array) -> Iterator[tuple[Array, Array, bool]]:
        """(rows, rows, whether only pairs in falling order count) that a tile compares; both in the order of rank."""
        until = min((tile + 1) * TILE, self.rows)
        mine = np.arange(tile * TILE, until, dtype=np.int32)
        mine, others = mine[asked[mine]], np.flatnonzero(alive[:until]).astype(np.int32)
        yield from ((mine, others[start : start + BLOCK], True) for start in range(0, len(others), BLOCK))


class Buckets(NamedTuple):
    """Rows by the bucket they live in, and by those they visit: bucket n has live[starts[n]:starts[n + 1]]."""

    starts: Array
    live: Array
    visit_starts: Array
    visitors: Array

    @property
    def work(self) -> Array:
        here = np.diff(self.starts).astype(np.float64)
        return here * (here / 2 + np.diff(self.visit_starts)) + 1

    def pairs(self, tile: int, asked: Array, alive: Array) -> Iterator[tuple[Array, Array, bool]]:
        """As Everything.pairs: among those who live here, and between them and visitors."""
        here = self.live[self.starts[tile] : self.starts[tile + 1]]
        come = self.visitors[self.visit_starts[tile] : self.visit_starts[tile + 1]]
        here, come = here[alive[here]], come[alive[come]]
        mine = here[asked[here]]
        for some in reversed(list(pieces(mine))):  # the longest first: the others need a part of its vectors
            yield some, here[: np.searchsorted(here, some[-1])], True
        yield from ((some, here, False) for some in pieces(come[asked[come]]))
        yield from ((some, come[~asked[come]], False) for some in pieces(mine))


Layout = Everything | Buckets


def pieces(rows: Array) -> Iterator[Array]:
    yield from (rows[start : start + TILE] for start in range(0, len(rows), TILE))


class Search(NamedTuple):
    """All that finding links needs, to be given to workers."""

    matrix: Matrix
    layout: Layout
    threshold: float
    asked: Array
    alive: Array

    def tiles(self, tiles: Sequence[int]) -> Links:
        """Links in some tiles, on all cores that this process may use."""
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads()) as pool:
            return Links.joined(pool.map(self.tile, tiles))

    def tile(self, tile: int, most: int = LISTED) -> Links:
        """At most so many neighbours a row, each measured in float64."""
        found: list[tuple[Array, Array]] = []
        here = vectors = NOWHERE
        for left, right, falling in self.layout.pairs(tile, self.asked, self.alive):
            if not len(left) or not len(right):
                continue
            if len(here) < len(right) or not np.array_equal(here[: len(right)], right):
                here, vectors = right, self.matrix.take(right)
            lowest = self.threshold - SLACK
            rows, columns = alike(self.matrix, left, right, vectors[: len(right)], lowest, falling, most)
            if len(rows):
                found.append((left[rows], right[columns]))
        if not found:
            return Links.none()
        one, other = (np.concatenate(side) for side in zip(*found, strict=True))
        row, before = np.maximum(one, other), np.minimum(one, other)
        mine = self.asked[row] & self.alive[before]
        row, before = row[mine], before[mine]
        order = np.lexsort((before, row))
        row, before = row[order], before[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        more = np.unique(row[place >= most])
        row, before = row[place < most], before[place < most]
        similarity = self.matrix.measured(row, before)
        good = similarity >= self.threshold
        row, before, similarity = row[good], before[good], similarity[good]
        if len(np.setdiff1d(more, row)):  # all that was listed of a row lies just below the threshold: list all
            return self.tile(tile, len(self.asked))
        return Links(row, before, similarity, more)


def alike(
    matrix: Matrix, left: Array, right: Array, vectors: Array, threshold: float, falling: bool, most: int = LISTED
) -> tuple[Array, Array]:
    """(places in left, places in right) of pairs of one group whose product reaches the threshold; falling: only those
    whose left rank is the larger. vectors: those of `right`. Of the pairs of a row with better-ranked ones, `most` + 1.
    """
    product = matrix.take(left) @ vectors.T
    groups = matrix.groups[left], matrix.groups[right]
    seen = np.zeros(len(right), np.int32)
    count = scan(product, threshold, left, right, *groups, falling, most, seen, NOWHERE, NOWHERE)
    rows, columns = np.empty(count, np.int64), np.empty(count, np.int64)
    if count:
        seen[:] = 0
        scan(product, threshold, left, right, *groups, falling, most, seen, rows, columns)
    return rows, columns


@njit(nogil=True, cache=True, inline="always")
def apart(one, other):  # type: ignore[no-untyped-def]
    """Whether rows of these groups are never alike."""
    return one != other and one != ANY and other != ANY


@njit(nogil=True, cache=True, fastmath=True)
def scan(product, threshold, lefts, rights, left_groups, right_groups, falling, most, seen, rows, columns):  # type: ignore[no-untyped-def]
    """How many cells reach the threshold; written down where there is room."""
    found = 0
    for i in range(product.shape[0]):
        mine = 0
        for start in range(0, product.shape[1], CHUNK):
            until = min(start + CHUNK, product.shape[1])
            if falling and (mine > most or rights[start] >= lefts[i]):
                break
            highest = product[i, start]
            for j in range(start, until):
                highest = max(highest, product[i, j])
            if highest < threshold:
                continue
            for j in range(start, until):
                if product[i, j] < threshold or lefts[i] == rights[j]:
                    continue
                if apart(left_groups[i], right_groups[j]):
                    continue
                if lefts[i] > rights[j]:
                    mine += 1
                    if mine > most + 1:
                        continue
                else:
                    seen[j] += 1
                    if falling or seen[j] > most + 1:
                        continue
                if found < len(rows):
                    rows[found], columns[found] = i, j
                found += 1
    return found


class Helpers(NamedTuple):
    """Workers, and a folder that they read from what they are to work on; vectors must then be a memory map."""

    spread: MapUnordered
    folder: Path


TASKS = 64  # that one piece of work is spread over


def links_in(search: Search, helpers: Helpers | None = None) -> Links:
    """All links, found on the cores of this process or by workers."""
    work = search.layout.work
    if helpers is None:
        return search.tiles(range(len(work)))
    path = saved(
        helpers.folder / f"search-{secrets.token_hex(4)}.npz",
        search.matrix,
        **search.layout._asdict(),
        threshold=search.threshold,
        asked=search.asked,
        alive=search.alive,
    )
    share = (np.cumsum(work) * (TASKS / work.sum())).astype(int)
    groups = [np.flatnonzero(share == n).tolist() for n in range(TASKS + 1)]
    return Links.joined(helpers.spread(tiles_of, [(path, group) for group in groups if group]))


def tiles_of(path: Path, tiles: Sequence[int]) -> Links:
    """Links in some tiles of a search that was saved."""
    matrix, given = opened(path)
    layout: Layout = (
        Everything(int(given["rows"])) if "rows" in given else Buckets(*(given[name] for name in Buckets._fields))
    )
    return Search(matrix, layout, float(given["threshold"]), given["asked"], given["alive"]).tiles(tiles)


def by_blocks(
    matrix: Matrix, work: Callable[..., tuple[Array, ...]], *given: Any, helpers: Helpers | None = None
) -> list[Array]:
    """work(matrix, some ranks, *given), a function of a module, for all ranks block by block; its arrays, joined."""
    starts = range(0, matrix.rows, BLOCK)
    if helpers is None:
        return joined_blocks(matrix, starts, work, given)
    path = saved(helpers.folder / "matrix.npz", matrix)
    size = -(-len(starts) // TASKS)
    jobs = [(path, n, starts[n : n + size], work, given) for n in range(0, len(starts), size)]
    made = [arrays for _, arrays in sorted(helpers.spread(blocks_of, jobs), key=itemgetter(0))]
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


def joined_blocks(matrix: Matrix, starts: range, work: Callable[..., tuple[Array, ...]], given: Any) -> list[Array]:
    blocks = (np.arange(at, min(at + BLOCK, matrix.rows), dtype=np.int32) for at in starts)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads()) as pool:
        made = list(pool.map(lambda block: work(matrix, block, *given), blocks))
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


def blocks_of(
    path: Path, number: int, starts: range, work: Callable[..., tuple[Array, ...]], given: Any
) -> tuple[int, list[Array]]:
    return number, joined_blocks(opened(path)[0], starts, work, given)


def saved(path: Path, matrix: Matrix, **more: Any) -> Path:
    """Write all but the vectors, which are a file already."""
    mapped = matrix.vectors
    assert isinstance(mapped, np.memmap)
    with path.open("wb") as file:
        np.savez(file, order=matrix.order, groups=matrix.groups, vectors=str(mapped.filename), **more)
    return path


@lru_cache(maxsize=1)
def opened(path: Path) -> tuple[Matrix, dict[str, Array]]:
    with np.load(path) as file:
        given = dict(file)
    vectors = np.load(str(given.pop("vectors")), mmap_mode="r")
    return Matrix(vectors, given.pop("order"), given.pop("groups")), given
