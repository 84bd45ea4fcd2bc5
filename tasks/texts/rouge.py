"""ROUGE-L of many texts against many: which new ones are too like one that is there.

ROUGE-L's F1 is 2 x longest common subsequence / (m + n) over words. Most pairs need no look: to reach the threshold two
texts must share many words, so they share one of the rarest few of each; only texts that do are compared, by a
bit-parallel longest common subsequence.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numba import njit

from tasks.cores import Array

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A word; in scripts without spaces, a letter."""
SLACK = 1e-9


def rouge_words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def too_alike(new: Sequence[str], there: Sequence[str], threshold: float) -> tuple[Array, Array]:
    """Per new text, in order, (the place of the first text that it is too like, or -1; ROUGE-L with it). Places count
    `there` first, then `new`; a new text that is too like another one is not there for those after it. Equality with
    the threshold is too like.
    """
    words = [rouge_words(text) for text in (*there, *new)]
    often = Counter(word for text in words for word in set(text))
    ranked = {word: n for n, (word, _) in enumerate(sorted(often.items(), key=lambda item: (item[1], item[0])))}
    tokens = [[ranked[word] for word in text] for text in words]
    starts = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(text) for text in tokens], out=starts[1:])
    flat = np.fromiter((token for text in tokens for token in text), np.int64, starts[-1])
    rarest = [sorted(set(text))[: prefix(len(text), len(set(text)), threshold)] for text in tokens]
    texts_of: list[list[int]] = [[] for _ in ranked]
    for place, rare in enumerate(rarest):
        for token in rare:
            texts_of[token].append(place)
    held = np.zeros(len(ranked) + 1, np.int64)
    np.cumsum([len(places) for places in texts_of], out=held[1:])
    holders = np.fromiter((place for places in texts_of for place in places), np.int64, held[-1])
    begins = np.zeros(len(rarest) + 1, np.int64)
    np.cumsum([len(rare) for rare in rarest], out=begins[1:])
    rare_flat = np.fromiter((token for one in rarest for token in one), np.int64, begins[-1])
    alike, score = np.full(len(new), -1, np.int64), np.zeros(len(new))
    find_alike(flat, starts, rare_flat, begins, holders, held, len(there), threshold - SLACK, len(ranked), alike, score)
    return alike, score


def prefix(length: int, different: int, threshold: float) -> int:
    """How many of its rarest words a text must be found by. A text of n words that reaches the threshold with one of m
    shares a subsequence of at least threshold x (m + n) / 2 >= threshold x n / (2 - threshold) words with it.
    """
    shared = int(np.ceil(threshold * length / (2 - threshold) - SLACK))
    return min(different, max(1, length - shared + 1))


@njit(cache=True)
def find_alike(flat, starts, rare, begins, holders, held, there, threshold, kinds, alike, score):  # type: ignore[no-untyped-def]
    """`too_alike` over numbers: words of texts, their rarest words, and the texts of each word."""
    count = len(starts) - 1
    seen = np.full(count, -1, np.int64)
    kept = np.ones(count, np.bool_)
    longest = 0
    for text in range(there, count):
        longest = max(longest, starts[text + 1] - starts[text])
    blocks = longest // 64 + 1
    masks = np.zeros((kinds, blocks), np.uint64)
    for text in range(there, count):
        mine = flat[starts[text] : starts[text + 1]]
        m = len(mine)
        used = m // 64 + 1
        for n in range(m):
            masks[mine[n], n // 64] |= np.uint64(1) << np.uint64(n % 64)
        first, best = count, 0.0
        for at in range(begins[text], begins[text + 1]):
            token = rare[at]
            for n in range(held[token], held[token + 1]):
                other = holders[n]
                if other >= text:
                    break
                if not kept[other] or seen[other] == text or other >= first:
                    continue
                seen[other] = text
                theirs = flat[starts[other] : starts[other + 1]]
                most = min(m, len(theirs))
                if 2.0 * most < threshold * (m + len(theirs)):
                    continue
                shared = common(masks, used, m, theirs)
                if 2.0 * shared >= threshold * (m + len(theirs)):
                    first, best = other, 2.0 * shared / (m + len(theirs))
        for n in range(m):
            masks[mine[n], n // 64] = np.uint64(0)
        if first < count:
            alike[text - there], score[text - there] = first, best
            kept[text] = False


@njit(cache=True)
def common(masks, used, m, theirs):  # type: ignore[no-untyped-def]
    """The length of the longest common subsequence (Hyyro's bit-parallel form). masks: of the first text's words."""
    state = np.full(used, np.uint64(0xFFFFFFFFFFFFFFFF))
    for n in range(len(theirs)):
        carry = np.uint64(0)
        for block in range(used):
            old = state[block]
            hits = old & masks[theirs[n], block]
            total = old + hits
            over = np.uint64(total < old)
            total2 = total + carry
            over2 = np.uint64(total2 < total)
            carry = over | over2
            state[block] = total2 | (old & ~masks[theirs[n], block])
    shared = 0
    for n in range(m):
        if not (state[n // 64] >> np.uint64(n % 64)) & np.uint64(1):
            shared += 1
    return shared
