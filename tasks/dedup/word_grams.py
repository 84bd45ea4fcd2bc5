"""Texts as runs of words, in numbers: near duplicates by MinHash, verified; and which texts share a run with which.

Source: docs/papers.md#dedup, layer 2. Signatures are rensa's R-MinHash; what they propose is measured.
"""

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numba import njit

from tasks.cores import Array
from tasks.texts.rouge import WORD
from tasks.vectors.links import ANY, LISTED, Links

TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]+")
"""A word (in scripts without spaces a letter), or a run of punctuation: `a + b` is not `a - b`."""
PROSE = re.compile(
    r"""(?:[.,;:?…"'“”‘’«»]|(?<![\d)\]])!)+(?=[*`]*(?:\s|$))  # ends a clause or a quotation; 5! is a factorial
    |=(?=[\s?"'”’`*]*$)                         # asks for the result, as a question mark does
    |(?<!\S)["'“”‘’«»„¿¡]+                      # opens a quotation
    |(?<=[^\W\d])['’](?=[^\W\d])               # don't
    |(?<=[^\W\d]{2})-(?=[^\W\d]{2})            # well-known
    |[(\[](?=[^\W\d]{2})|(?<=[^\W\d]{2})[)\]]  # (an aside)
    |^[ \t]*(?:[*+>•-]|\#{1,6})[ \t]+(?=[^\W\d]{2})  # begins an item or a heading
    |(?<!\S)(?:(?:\*{2,3}|`+)(?=\S)|\*(?=[^\W\d]{2}))  # begins emphasis or code
    |(?:(?<=\S)(?:\*{2,3}|`+)|(?<=[^\W\d]{2})\*)(?=[\s.,;:?!)]|$)  # ends it
    |[、。，；：？！「」『』《》]""",
    re.VERBOSE | re.MULTILINE,
)
"""Punctuation and markup that change no meaning; any other mark between words is an operator."""
SPELLINGS = str.maketrans("−×⋅·÷", "-***/")
OPERAND = re.compile(r"(?P<word>\w+)|[^\w\s]")
GRAM = 3
PERMUTATIONS, BANDS = 128, 32
AT_ONCE = 8192  # texts whose signatures are lists of numbers for a moment
LOOKED_AT = 1000  # texts of one bucket that a text is compared with, the best-ranked
FIRST = np.uint64(0x9E3779B97F4A7C15)
SECOND = np.uint64(0xBF58476D1CE4E5B9)


class Grams(NamedTuple):
    """Sorted hashes of each text's runs of words; of text n, hashes[starts[n]:starts[n + 1]]."""

    hashes: Array
    starts: Array


def tokens_of(text: str) -> list[str]:
    return TOKEN.findall(text.casefold())


def operands_of(text: str) -> list[str]:
    """Words, each with the operators before it, and last the operators that no word follows: `2 + 2 = ?` is 2, +2, and
    differs from `2 - 2 = ?`; `-x!` is -x, !.
    """
    operands, operators = [], ""
    for token in OPERAND.finditer(PROSE.sub(" ", text.casefold().translate(SPELLINGS))):
        operators += token.group()
        if token["word"]:
            operands.append(operators)
            operators = ""
    return [*operands, operators] if operators else operands


def grams_of(texts: Sequence[str], length: int, tokens: Callable[[str], list[str]] = tokens_of) -> Grams:
    """Every run of so many words of each text, once; a shorter text is one run, a text without words has none."""
    made = [
        some_grams([tokens(text) for text in texts[n : n + AT_ONCE]], length) for n in range(0, len(texts), AT_ONCE)
    ]
    counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(some.starts) for some in made)])
    return Grams(np.concatenate([np.zeros(0, np.uint64), *(some.hashes for some in made)]), np.cumsum(counts))


def some_grams(tokens: Sequence[Sequence[str]], length: int) -> Grams:
    known: dict[str, int] = {}
    numbers = [known.setdefault(token, len(known)) for text in tokens for token in text]
    words = np.frombuffer(b"".join(blake2b(token.encode(), digest_size=8).digest() for token in known), np.uint64)
    begins = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(text) for text in tokens], out=begins[1:])
    counts = np.diff(begins)
    runs = np.where(counts >= length, counts - length + 1, counts > 0)
    starts = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(runs, out=starts[1:])
    hashes = np.empty(starts[-1], np.uint64)
    kept = np.zeros(len(tokens), np.int64)
    hash_runs(words[np.array(numbers, np.int64)], begins, starts, length, hashes, kept)
    if kept.sum() < len(hashes):
        mine = np.arange(len(hashes)) - np.repeat(starts[:-1], runs) < np.repeat(kept, runs)
        hashes = hashes[mine]
        np.cumsum(kept, out=starts[1:])
    return Grams(hashes, starts)


@njit(cache=True)
def hash_runs(words, begins, starts, length, hashes, kept):  # type: ignore[no-untyped-def]
    for text in range(len(begins) - 1):
        count = starts[text + 1] - starts[text]
        if not count:
            continue
        size = min(length, begins[text + 1] - begins[text])
        for run in range(count):
            mixed = np.uint64(size)
            for n in range(size):
                mixed = (mixed ^ words[begins[text] + run + n]) * FIRST
                mixed ^= mixed >> np.uint64(29)
            hashes[starts[text] + run] = mixed * SECOND
        mine = np.sort(hashes[starts[text] : starts[text] + count])
        unlike = 0
        for n in range(count):
            if n == 0 or mine[n] != mine[n - 1]:
                hashes[starts[text] + unlike] = mine[n]
                unlike += 1
        kept[text] = unlike


class WordLinks:
    """Texts in the order of rank -> links between those whose sets of word 3-grams have a Jaccard similarity of at
    least `threshold`; 128 permutations in 32 bands of 4 propose pairs. groups: as Matrix's; rows of any group rank
    first.
    """

    def __init__(self, texts: Sequence[str], groups: Array, threshold: float, seed: int) -> None:
        self.grams = grams_of(texts, GRAM)
        self.groups, self.threshold = groups, threshold
        self.bands = bands_of(self.grams, seed)

    def __call__(self, asked: Array, alive: Array) -> Links:
        there = np.flatnonzero(alive & (np.diff(self.grams.starts) > 0))
        found = []
        for band in self.bands:
            order = there[np.lexsort((self.groups[there], band[there]))]
            keys = band[order]
            row, other, jaccard, more = compare_within(
                keys, order, asked, self.groups, *self.grams, self.threshold, LOOKED_AT, LISTED
            )
            found.append(Links(row, other, jaccard, more))
        return Links.joined(found)


def bands_of(grams: Grams, seed: int) -> list[Array]:
    """Per band, a number per text: equal where the four values of the band are."""
    from rensa import RMinHash

    bands = np.empty((BANDS, len(grams.starts) - 1), np.uint64)
    for start in range(0, bands.shape[1], AT_ONCE):
        starts = grams.starts[start : start + AT_ONCE + 1]
        hashes = grams.hashes[starts[0] : starts[-1]]
        made = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, (starts - starts[0]).astype(np.uint64), PERMUTATIONS, seed
        )
        values = np.array(made.to_rows(), np.uint64).reshape(-1, BANDS, PERMUTATIONS // BANDS)
        mixed = np.zeros(values.shape[:2], np.uint64)
        for n in range(values.shape[2]):
            mixed = (mixed ^ values[:, :, n]) * FIRST
            mixed ^= mixed >> np.uint64(31)
        bands[:, start : start + AT_ONCE] = mixed.T
    return list(bands)


@njit(cache=True)
def compare_within(keys, order, asked, groups, hashes, starts, threshold, looked_at, listed):  # type: ignore[no-untyped-def]
    """Links among texts of equal key; they stand in the order of key, group (those of any group first), then rank."""
    size = 1024
    rows, others, found = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size)
    more = np.zeros(len(order), np.bool_)
    count, begin, group = 0, 0, 0
    for at in range(len(order)):
        row = order[at]
        if keys[at] != keys[begin]:
            begin = group = at
        if groups[row] != groups[order[group]]:
            group = at
        if not asked[row]:
            continue
        mine, looked, n = 0, 0, begin
        while n < at and looked < looked_at:
            other = order[n]
            if n < group and groups[other] != ANY:
                n = group
                continue
            n += 1
            looked += 1
            alike = jaccard(hashes[starts[row] : starts[row + 1]], hashes[starts[other] : starts[other + 1]])
            if alike < threshold:
                continue
            if mine == listed:
                more[at] = True
                break
            mine += 1
            if count == size:
                size *= 2
                rows, others = np.append(rows, np.empty_like(rows)), np.append(others, np.empty_like(others))
                found = np.append(found, np.empty_like(found))
            rows[count], others[count], found[count] = row, other, alike
            count += 1
    return rows[:count], others[:count], found[:count], order[more].astype(np.int32)


@njit(cache=True)
def jaccard(one, other):  # type: ignore[no-untyped-def]
    """Of two sorted sets."""
    a, b, shared = 0, 0, 0
    while a < len(one) and b < len(other):
        if one[a] == other[b]:
            shared += 1
            a += 1
            b += 1
        elif one[a] < other[b]:
            a += 1
        else:
            b += 1
    return shared / (len(one) + len(other) - shared)
