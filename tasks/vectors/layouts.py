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

    def pairs(self, tile: int, queries: Array, alive: Array) -> Pairs:
        """Pairs among a bucket's residents, and between residents and visitors."""
        residents = self.live[self.starts[tile] : self.starts[tile + 1]]
        visitors = self.visitors[self.visit_starts[tile] : self.visit_starts[tile + 1]]
        residents, visitors = residents[alive[residents]], visitors[alive[visitors]]
        query_residents = residents[queries[residents]]
        for piece in reversed(list(tiles_of_rows(query_residents))):  # the longest first: the others share its vectors
            yield piece, residents[: np.searchsorted(residents, piece[-1])], True
        yield from ((piece, residents, False) for piece in tiles_of_rows(visitors[queries[visitors]]))
        yield from ((piece, visitors[~queries[visitors]], False) for piece in tiles_of_rows(query_residents))


Layout = ExactLayout | Buckets


def layout_of(arrays: Mapping[str, Array]) -> Layout:
    """The layout with these arrays by name, as `_asdict` gives them."""
    if "rows" in arrays:
        return ExactLayout(int(arrays["rows"]))
    return Buckets(*(arrays[name] for name in Buckets._fields))


def tiles_of_rows(rows: Array) -> Iterator[Array]:
    yield from (rows[start : start + TILE] for start in range(0, len(rows), TILE))
