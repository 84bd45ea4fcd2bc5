"""Values dealt to rows by hash, so that shares come out as they were set, at every length of a list of rows.

A row's place in the list decides what is left for it, and hashes decide which of that it gets. So rows that are added
at the end change nothing about those before them, and no pattern in the order of rows meets one in the values.

- `cards`: decks are shuffled by hash and dealt one after the other: counts of two equal cards never differ by more
  than one.
- `shares`: numbers in [0, 1): of each block of 2^m rows (m <= 16) that begins at a multiple of 2^m, one number lies in
  each of the 2^m equal intervals. After n < 65,536 rows, the count below any x differs from n x by less than the number
  of ones in n's binary form, so by less than log2(n) + 1; independent draws differ by 0.5 sqrt(n) as a rule.

Without places, both are independent draws by a row's id, which also rows that move or go do not change.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthmill.schemas.hashing import digest

Words = NDArray[np.uint64]
LEVELS = 16
GOLDEN, FIRST_MIX, SECOND_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's


def mixed(words: Words) -> Words:
    """splitmix64 of each word."""
    words = words + np.uint64(GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(FIRST_MIX)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(SECOND_MIX)
    return words ^ (words >> np.uint64(31))


def words_of(ids: Iterable[str]) -> Words:
    """A word for each id."""
    hashes = b"".join(blake2b(row_id.encode(), digest_size=8).digest() for row_id in ids)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


class Deal(NamedTuple):
    """Rows to deal to: a word of each one's id, their places in the list (None: independently), and what tells this
    deal from others.
    """

    ids: Words
    places: Words | None
    key: int

    @classmethod
    def of(cls, ids: Words, balanced: bool, *names: Any) -> "Deal":
        places = np.arange(len(ids), dtype=np.uint64) if balanced else None
        return cls(ids, places, int.from_bytes(digest(list(names), size=8)))

    def shares(self) -> NDArray[np.float64]:
        """A number in [0, 1) for each row: 16 bits by place, 32 by id."""
        by_id = mixed(self.ids ^ np.uint64(self.key))
        if self.places is None:
            return (by_id >> np.uint64(16)).astype(np.float64) / float(1 << 48)
        bits = np.zeros(len(self.places), np.uint64)
        lowest_bit = np.uint64(1)
        for level in range(LEVELS):
            block = self.places >> np.uint64(level + 1)
            side = (self.places >> np.uint64(level)) & lowest_bit
            level_key = mixed(np.full(1, self.key ^ (level + 1), np.uint64))
            bits = (bits << lowest_bit) | (side ^ (mixed(mixed(block ^ level_key) ^ bits) & lowest_bit))
        return (bits.astype(np.float64) + (by_id >> np.uint64(32)).astype(np.float64) / (1 << 32)) / (1 << LEVELS)

    def cards(self, count: int) -> NDArray[np.int64]:
        """A card, 0 to count - 1, for each row."""
        if self.places is None:
            return (self.shares() * count).astype(np.int64)
        decks = -(-len(self.places) // count)
        slots = np.arange(decks * count, dtype=np.uint64)
        shuffled = np.argsort(mixed(mixed(slots) ^ np.uint64(self.key)).reshape(decks, count), axis=1, kind="stable")
        return shuffled.reshape(-1)[: len(self.places)]
