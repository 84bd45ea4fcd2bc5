"""ROUGE-L of many texts against many: which new texts are too similar to an existing one.

ROUGE-L's F1 is 2 x longest common subsequence / (m + n) over words. Most pairs need no comparison: two texts that reach
the threshold share many words, so they share one of the rarest few words of each. Only such pairs are compared, by a
bit-parallel longest common subsequence.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numba import njit

from synthmill.tasks.cores import Array

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A word; in scripts without spaces, a letter."""
SLACK = 1e-9
NONE = -1


def rouge_words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def find_too_alike(new: Sequence[str], existing: Sequence[str], threshold: float) -> tuple[Array, Array]:
    """Per new text, (the index of the first text it is too similar to, or -1; ROUGE-L with it). An index counts
    `existing` first, then `new`. A new text that is too similar is not compared with those after it. ROUGE-L equal to
    the threshold is too similar.
    """
    texts = UnlikeTexts(threshold)
    texts.add(existing)
    return texts.screen(new)


class UnlikeTexts:
    """Texts that new ones are compared with, and those of the new that are like none of them: round after round, at
    the price of the new texts. Verdicts are those of one pass over all.

    Texts are numbered in the order they came, those that were too similar included. Any order of words finds all
    candidates; the rarest first finds the fewest. So words are ranked anew each time the texts have doubled.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.numbers: dict[str, int] = {}  # of words, as they came
        self.counts = np.zeros(0, np.int64)  # texts that hold a word
        self.ranks = np.zeros(0, np.int64)  # the rarest lowest
        self.ranked_texts = 0
        self.words = np.zeros(0, np.int64)  # of all texts, one after the other
        self.starts = np.zeros(1, np.int64)
        self.kept = np.zeros(0, np.bool_)
        self.first, self.last = (np.zeros(0, np.int64) for _ in range(2))  # per word, its first and last listing
        self.holders, self.following = (np.zeros(0, np.int64) for _ in range(2))  # of a listing: its text, the next one
        self.listed = 0

    def add(self, texts: Sequence[str]) -> None:
        """Texts that are compared with, whatever they are like."""
        begin = len(self.kept)
        self.append(texts)
        self.kept[begin:] = True
        self.list_texts(begin, len(self.kept))

    def screen(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Per text, (the number of the first kept text that it is too similar to, or -1; ROUGE-L with it). Those that
        are like none are kept.
        """
        begin = len(self.kept)
        self.append(texts)
        match, score = np.full(len(texts), NONE, np.int64), np.zeros(len(texts))
        longest = int(np.diff(self.starts[begin:]).max(initial=0))
        masks = np.zeros((len(self.counts), longest // 64 + 1), np.uint64)
        rare, rare_starts = self.rarest_words(begin, len(self.kept))
        self.listed = screen_texts(
            *(self.words, self.starts, rare, rare_starts, self.kept, begin),
            *(self.listed, self.first, self.last, self.holders, self.following),
            *(masks, self.threshold - SLACK, match, score),
        )
        return match, score

    def append(self, texts: Sequence[str]) -> None:
        """The words of more texts; their ranks."""
        words = [rouge_words(text) for text in texts]
        counts = Counter(word for text in words for word in set(text))
        known = len(self.numbers)
        new = sorted((word for word in counts if word not in self.numbers), key=lambda word: (-counts[word], word))
        self.numbers.update(zip(new, range(known, known + len(new)), strict=True))
        self.counts = np.append(self.counts, np.zeros(len(new), np.int64))
        places = np.fromiter(map(self.numbers.__getitem__, counts), np.int64, len(counts))
        self.counts[places] += np.fromiter(counts.values(), np.int64, len(counts))
        lowest = self.ranks.min(initial=0)
        self.ranks = np.append(self.ranks, lowest - 1 - np.arange(len(new)))  # what was never seen is rarer than all
        self.first, self.last = (np.append(side, np.full(len(new), NONE)) for side in (self.first, self.last))
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        self.starts = np.append(self.starts, self.starts[-1] + np.cumsum(lengths))
        tokens = np.fromiter(map(self.numbers.__getitem__, chain.from_iterable(words)), np.int64, lengths.sum())
        self.words = np.append(self.words, tokens)
        begin = len(self.kept)
        self.kept = np.append(self.kept, np.zeros(len(texts), np.bool_))
        if len(self.kept) >= 2 * self.ranked_texts:
            self.rank_words()
            self.list_texts(0, begin)

    def rank_words(self) -> None:
        """Rank all words by how many texts hold them; no text is listed then."""
        self.ranks[np.lexsort((np.arange(len(self.counts)), self.counts))] = np.arange(len(self.counts))
        self.ranked_texts, self.listed = len(self.kept), 0
        self.first[:], self.last[:] = NONE, NONE

    def list_texts(self, begin: int, end: int) -> None:
        """List the kept texts from `begin` to `end` under their rarest words."""
        rare, rare_starts = self.rarest_words(begin, end)
        self.listed = list_kept(
            *(rare, rare_starts, self.kept, begin, self.listed, self.first, self.last, self.holders, self.following)
        )

    def rarest_words(self, begin: int, end: int) -> tuple[Array, Array]:
        """The words that texts are listed under, one text after the other, and where each text's begin; there is room
        to list them then. A text of n words that reaches the threshold with a text of m words shares a subsequence of
        at least threshold x (m + n) / 2 >= threshold x n / (2 - threshold) words with it.
        """
        lengths = np.diff(self.starts[begin : end + 1])
        ranks = self.ranks - self.ranks.min(initial=0)
        size = int(ranks.max(initial=0)) + 1
        text_of = np.repeat(np.arange(len(lengths)), lengths)
        ranks_in_texts = ranks[self.words[self.starts[begin] : self.starts[end]]]
        texts, own_ranks = np.divmod(np.unique(text_of * size + ranks_in_texts), size)
        place = np.arange(len(texts)) - np.searchsorted(texts, np.arange(len(lengths)))[texts]
        shared = np.ceil(self.threshold * lengths / (2 - self.threshold) - SLACK).astype(np.int64)
        needed = place < np.maximum(1, lengths - shared + 1)[texts]
        word_of = np.full(size, NONE)
        word_of[ranks] = np.arange(len(ranks))
        self.reserve(int(needed.sum()))
        return word_of[own_ranks[needed]], np.searchsorted(texts[needed], np.arange(len(lengths) + 1))

    def reserve(self, listings: int) -> None:
        """Room for so many more listings, and as many again where there was none."""
        if self.listed + listings > len(self.holders):
            room = np.zeros(max(listings, self.listed), np.int64)
            sides = (self.holders, self.following)
            self.holders, self.following = (np.append(side[: self.listed], room) for side in sides)


@njit(cache=True)
def list_text(text, rare, listed, first, last, holders, following):  # type: ignore[no-untyped-def]
    """List a text under words, behind those that are there: how many listings there are now."""
    for n in range(len(rare)):
        word = rare[n]
        holders[listed], following[listed] = text, NONE
        if last[word] == NONE:
            first[word] = listed
        else:
            following[last[word]] = listed
        last[word] = listed
        listed += 1
    return listed


@njit(cache=True)
def list_kept(rare, rare_starts, kept, begin, listed, first, last, holders, following):  # type: ignore[no-untyped-def]
    """`list_text` of the kept texts from `begin` on."""
    for n in range(len(rare_starts) - 1):
        if kept[begin + n]:
            own = rare[rare_starts[n] : rare_starts[n + 1]]
            listed = list_text(begin + n, own, listed, first, last, holders, following)
    return listed


@njit(cache=True)
def screen_texts(  # type: ignore[no-untyped-def]
    words, starts, rare, rare_starts, kept, begin, listed, first, last, holders, following, masks, limit, match, score
):
    """`UnlikeTexts.screen` over numbers; masks: zeros, per word as many bits as the longest text has words."""
    compared_with = np.full(len(kept), NONE, np.int64)
    for n in range(len(match)):
        text = begin + n
        own = words[starts[text] : starts[text + 1]]
        own_rare = rare[rare_starts[n] : rare_starts[n + 1]]
        m = len(own)
        for place in range(m):
            masks[own[place], place // 64] |= np.uint64(1) << np.uint64(place % 64)
        nearest, best = len(kept), 0.0
        for place in range(len(own_rare)):
            listing = first[own_rare[place]]
            while listing != NONE and holders[listing] < nearest:
                candidate = holders[listing]
                listing = following[listing]
                if compared_with[candidate] == text:
                    continue
                compared_with[candidate] = text
                other = words[starts[candidate] : starts[candidate + 1]]
                if 2.0 * min(m, len(other)) < limit * (m + len(other)):
                    continue
                shared = common_subsequence(masks, m // 64 + 1, m, other)
                if 2.0 * shared >= limit * (m + len(other)):
                    nearest, best = candidate, 2.0 * shared / (m + len(other))
        for place in range(m):
            masks[own[place], place // 64] = np.uint64(0)
        if nearest < len(kept):
            match[n], score[n] = nearest, best
        else:
            kept[text] = True
            listed = list_text(text, own_rare, listed, first, last, holders, following)
    return listed


@njit(cache=True)
def common_subsequence(masks, blocks, m, words):  # type: ignore[no-untyped-def]
    """The longest common subsequence's length (Hyyro's bit-parallel form). masks: per word, its places in the first
    text of m words.
    """
    state = np.full(blocks, np.uint64(0xFFFFFFFFFFFFFFFF))
    for n in range(len(words)):
        carry = np.uint64(0)
        for block in range(blocks):
            old = state[block]
            hits = old & masks[words[n], block]
            total = old + hits
            over = np.uint64(total < old)
            total2 = total + carry
            over2 = np.uint64(total2 < total)
            carry = over | over2
            state[block] = total2 | (old & ~masks[words[n], block])
    shared = 0
    for n in range(m):
        if not (state[n // 64] >> np.uint64(n % 64)) & np.uint64(1):
            shared += 1
    return shared
