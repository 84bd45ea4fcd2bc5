"""Layouts of a search for similar vectors: which rows each tile, the unit of work, compares with which.

Rows are ranks, the best first. `work`: per tile, an estimate of its relative running time. `pairs(tile, queries,
alive)`: (left rows, right rows, falling), each in order of rank; queries and alive are masks over ranks; falling: only
pairs whose left rank is the larger count.

Source: docs/papers.md#dedup, layer 3.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from synthmill.tasks.cores import Array

TILE = 256  # rows of a product that is scanned at once: it stays in the CPU's cache
BLOCK = 4096  # rows read at once in a pass over all rows
KNOWN_AT_ONCE = 1 << 16  # known rows that a tile compares with new ones: some dozens for each bucket
Pairs = Iterator[tuple[Array, Array, bool]]


class ExactLayout(NamedTuple):
    """Every row is compared with every other: the layout of an exact search."""

    rows: int

    @property
    def work(self) -> Array:
        return np.arange(1, -(-self.rows // TILE) + 1, dtype=np.float64)

    def pairs(self, tile: int, queries: Array, alive: Array) -> Pairs:
        until = min((tile + 1) * TILE, self.rows)
        tile_rows = np.arange(tile * TILE, until, dtype=np.int32)
        tile_rows, alive_rows = tile_rows[queries[tile_rows]], np.flatnonzero(alive[:until]).astype(np.int32)
        yield from ((tile_rows, alive_rows[start : start + BLOCK], True) for start in range(0, len(alive_rows), BLOCK))


class Buckets(NamedTuple):
    """Rows by their home bucket, and by the buckets they visit: bucket n has live[starts[n]:starts[n + 1]]."""

    starts: Array
    live: Array
    visit_starts: Array
    visitors: Array

    @classmethod
    def of(cls, count: int, homes: Array, visitors: Array, visited: Array) -> "Buckets":
        """homes: each row's bucket of `count`; visitors, visited: each visit's row and bucket, by row."""
        places = np.arange(count + 1)
        order, visiting = np.argsort(homes, kind="stable"), np.argsort(visited, kind="stable")
        starts, visit_starts = np.searchsorted(homes[order], places), np.searchsorted(visited[visiting], places)
        return cls(starts, order.astype(np.int32), visit_starts, visitors[visiting])

    @property
    def work(self) -> Array:
        sizes = np.diff(self.starts).astype(np.float64)
        return sizes * (sizes / 2 + np.diff(self.visit_starts)) + 1

    def members(self, bucket: int) -> tuple[Array, Array]:
        """(residents, visitors)"""
        residents = self.live[self.starts[bucket] : self.starts[bucket + 1]]
        return residents, self.visitors[self.visit_starts[bucket] : self.visit_starts[bucket + 1]]

    def pairs(self, tile: int, queries: Array, alive: Array) -> Pairs:
        """Pairs among a bucket's residents, and between residents and visitors."""
        residents, visitors = (rows[alive[rows]] for rows in self.members(tile))
        query_residents = residents[queries[residents]]
        for piece in reversed(list(tiles_of_rows(query_residents))):  # the longest first: the others share its vectors
            yield piece, residents[: np.searchsorted(residents, piece[-1])], True
        yield from ((piece, residents, False) for piece in tiles_of_rows(visitors[queries[visitors]]))
        yield from ((piece, visitors[~queries[visitors]], False) for piece in tiles_of_rows(query_residents))


class NewBuckets(NamedTuple):
    """New rows in buckets, as in Buckets, which are compared with each other, and with known rows, which are not.

    A bucket's known rows lie all over a file that is larger than the memory. So tiles are the buckets of new rows, and
    then blocks of known rows as they follow each other in the file: block b's residents of bucket n are
    known[bounds[b, n, 0]:bounds[b, n, 1]], and its visitors follow until bounds[b, n, 2].
    """

    starts: Array
    live: Array
    visit_starts: Array
    visitors: Array
    bounds: Array
    known: Array

    @classmethod
    def of(
        cls, count: int, homes: Array, visitors: Array, visited: Array, places: Array, at_once: int = KNOWN_AT_ONCE
    ) -> "NewBuckets":
        """As Buckets.of, of known rows and then new ones. places: where each known row stands in the file, in any
        order; at_once: known rows of a block.
        """
        fixed = len(places)
        block = np.empty(fixed, np.int64)
        block[np.argsort(places, kind="stable")] = np.arange(fixed) // at_once
        own, blocks = visitors < fixed, -(-fixed // at_once)
        known = np.concatenate([np.arange(fixed, dtype=np.int32), visitors[own]])
        cell = 2 * (block[known] * count + np.concatenate([homes[:fixed], visited[own]])) + (
            np.arange(len(known)) >= fixed
        )
        order = np.argsort(cell, kind="stable")
        starts = np.searchsorted(cell[order], np.arange(2 * blocks * count + 1)).astype(np.int64)
        bounds = np.stack([starts[:-1:2], starts[1::2], starts[2::2]], axis=1).reshape(blocks, count, 3)
        new = Buckets.of(count, homes[fixed:], visitors[~own] - fixed, visited[~own])
        new = new._replace(live=new.live + np.int32(fixed), visitors=new.visitors + np.int32(fixed))
        return cls(*new, bounds, known[order])

    @property
    def new(self) -> Buckets:
        return Buckets(*self[: len(Buckets._fields)])

    @property
    def work(self) -> Array:
        residents, visitors = np.diff(self.starts), np.diff(self.visit_starts)
        known_residents, known_visitors = np.moveaxis(np.diff(self.bounds, axis=2), 2, 0)
        by_block = (known_residents * (residents + visitors) + known_visitors * residents).sum(axis=1)
        return np.concatenate([self.new.work, by_block.astype(np.float64) + 1])

    def pairs(self, tile: int, queries: Array, alive: Array) -> Pairs:
        """A bucket's new rows, as Buckets.pairs, or one block's known rows, which are alive, bucket by bucket."""
        buckets = self.new
        if tile < len(self.starts) - 1:
            yield from buckets.pairs(tile, queries, alive)
            return
        for bucket, (start, end, until) in enumerate(self.bounds[tile - len(self.starts) + 1].tolist()):
            residents, visitors = (rows[queries[rows]] for rows in buckets.members(bucket))
            known_residents, known_visitors = self.known[start:end], self.known[end:until]
            yield from (
                (piece, known_residents, False) for piece in tiles_of_rows(np.concatenate([residents, visitors]))
            )
            yield from ((piece, known_visitors, False) for piece in tiles_of_rows(residents))


Layout = ExactLayout | Buckets | NewBuckets


def layout_of(arrays: Mapping[str, Array]) -> Layout:
    """The layout with these arrays by name, as `_asdict` gives them."""
    if "rows" in arrays:
        return ExactLayout(int(arrays["rows"]))
    kind = NewBuckets if "known" in arrays else Buckets
    return kind(*(arrays[name] for name in kind._fields))


def tiles_of_rows(rows: Array) -> Iterator[Array]:
    yield from (rows[start : start + TILE] for start in range(0, len(rows), TILE))
