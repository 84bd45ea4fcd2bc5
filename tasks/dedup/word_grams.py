"""Texts as hashed runs of words: near duplicates by MinHash, each verified; and which texts share a run.

Source: docs/papers.md#dedup, layer 2. Signatures are rensa's R-MinHash; each pair they propose is measured.
"""

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import polars as pl
from numba import njit

from synthmill.tasks.cores import Array
from synthmill.tasks.texts.rouge import WORD
from synthmill.tasks.vectors.links import ANY, LISTED, Links

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
AT_ONCE = 8192  # texts hashed at once: bounds memory, as signatures pass through Python lists
MOST_COMPARED = 1000  # texts of one bucket that a text is compared with, the best-ranked
FIRST = np.uint64(0x9E3779B97F4A7C15)
SECOND = np.uint64(0xBF58476D1CE4E5B9)


class Grams(NamedTuple):
    """Sorted hashes of each text's runs of words; of text n, hashes[starts[n]:starts[n + 1]]."""

    hashes: Array
    starts: Array


def tokens_of(text: str) -> list[str]:
    return TOKEN.findall(text.casefold())


def operands_of(text: str) -> list[str]:
    """Words, each with the operators before it; operators at the end stand alone. `2 + 2 = ?` is 2, +2, and differs
    from `2 - 2 = ?`; `-x!` is -x, !.
    """
    operands, operators = [], ""
    for token in OPERAND.finditer(PROSE.sub(" ", text.casefold().translate(SPELLINGS))):
        operators += token.group()
        if token["word"]:
            operands.append(operators)
            operators = ""
    return [*operands, operators] if operators else operands


def grams_of(texts: Sequence[str] | pl.Series, length: int, tokens: Callable[[str], list[str]] = tokens_of) -> Grams:
    """Every distinct run of `length` words of each text; a shorter text is one run, a text without words has none."""
    parts = [grams_in([tokens(text) for text in texts[n : n + AT_ONCE]], length) for n in range(0, len(texts), AT_ONCE)]
    counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)])
    return Grams(np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)]), np.cumsum(counts))


def grams_in(tokens: Sequence[Sequence[str]], length: int) -> Grams:
    number_of: dict[str, int] = {}
    numbers = [number_of.setdefault(token, len(number_of)) for text in tokens for token in text]
    words = np.frombuffer(b"".join(blake2b(token.encode(), digest_size=8).digest() for token in number_of), np.uint64)
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
        is_kept = np.arange(len(hashes)) - np.repeat(starts[:-1], runs) < np.repeat(kept, runs)
        hashes = hashes[is_kept]
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
        hashes_of_text = np.sort(hashes[starts[text] : starts[text] + count])
        distinct = 0
        for n in range(count):
            if n == 0 or hashes_of_text[n] != hashes_of_text[n - 1]:
                hashes[starts[text] + distinct] = hashes_of_text[n]
                distinct += 1
        kept[text] = distinct


class WordLinks:
    """Texts in order of rank -> links between texts whose sets of word 3-grams have a Jaccard similarity of at least
    `threshold`. 128 permutations in 32 bands of 4 propose pairs. groups: as Matrix's; rows of group ANY rank first.
    """

    def __init__(self, texts: Sequence[str] | pl.Series, groups: Array, threshold: float, seed: int) -> None:
        self.grams = grams_of(texts, GRAM)
        self.groups, self.threshold = groups, threshold
        self.bands = bands_of(self.grams, seed)

    def __call__(self, queries: Array, alive: Array) -> Links:
        rows = np.flatnonzero(alive & (np.diff(self.grams.starts) > 0))
        links = []
        for band in self.bands:
            order = rows[np.lexsort((self.groups[rows], band[rows]))]
            keys = band[order]
            row, neighbour, similarity, more = compare_within(
                keys, order, queries, self.groups, *self.grams, self.threshold, MOST_COMPARED, LISTED
            )
            links.append(Links(row, neighbour, similarity, more))
        return Links.join(links)


def bands_of(grams: Grams, seed: int) -> list[Array]:
    """Per band, a number per text; texts whose four signature values in the band are equal have the same number."""
    from rensa import RMinHash

    bands = np.empty((BANDS, len(grams.starts) - 1), np.uint64)
    for start in range(0, bands.shape[1], AT_ONCE):
        starts = grams.starts[start : start + AT_ONCE + 1]
        hashes = grams.hashes[starts[0] : starts[-1]]
        signatures = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, (starts - starts[0]).astype(np.uint64), PERMUTATIONS, seed
        )
        values = np.array(signatures.to_rows(), np.uint64).reshape(-1, BANDS, PERMUTATIONS // BANDS)
        mixed = np.zeros(values.shape[:2], np.uint64)
        for n in range(values.shape[2]):
            mixed = (mixed ^ values[:, :, n]) * FIRST
            mixed ^= mixed >> np.uint64(31)
        bands[:, start : start + AT_ONCE] = mixed.T
    return list(bands)


@njit(cache=True)
def compare_within(keys, order, queries, groups, hashes, starts, threshold, most_compared, listed):  # type: ignore[no-untyped-def]
    """Links among texts of equal key. order: texts sorted by key, group (ANY first) and rank."""
    size = 1024
    rows, neighbours, similarities = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size)
    more = np.zeros(len(order), np.bool_)
    count, begin, group = 0, 0, 0
    for position in range(len(order)):
        row = order[position]
        if keys[position] != keys[begin]:
            begin = group = position
        if groups[row] != groups[order[group]]:
            group = position
        if not queries[row]:
            continue
        own = hashes[starts[row] : starts[row + 1]]
        neighbour_count, compared, n = 0, 0, begin
        while n < position and compared < most_compared:
            neighbour = order[n]
            if n < group and groups[neighbour] != ANY:
                n = group
                continue
            n += 1
            compared += 1
            similarity = jaccard(own, hashes[starts[neighbour] : starts[neighbour + 1]])
            if similarity < threshold:
                continue
            if neighbour_count == listed:
                more[position] = True
                break
            neighbour_count += 1
            if count == size:
                size *= 2
                rows = np.append(rows, np.empty_like(rows))
                neighbours = np.append(neighbours, np.empty_like(neighbours))
                similarities = np.append(similarities, np.empty_like(similarities))
            rows[count], neighbours[count], similarities[count] = row, neighbour, similarity
            count += 1
    return rows[:count], neighbours[:count], similarities[:count], order[more].astype(np.int32)


@njit(cache=True)
def jaccard(first, second):  # type: ignore[no-untyped-def]
    """The Jaccard similarity of two sets, as sorted arrays."""
    a, b, shared = 0, 0, 0
    while a < len(first) and b < len(second):
        if first[a] == second[b]:
            shared += 1
            a += 1
            b += 1
        elif first[a] < second[b]:
            a += 1
        else:
            b += 1
    return shared / (len(first) + len(second) - shared)
