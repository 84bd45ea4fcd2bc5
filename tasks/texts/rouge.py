"""ROUGE-L of many texts against many: which new texts are too similar to an existing one.

ROUGE-L's F1 is 2 x longest common subsequence / (m + n) over words. Most pairs need no comparison: two texts that reach
the threshold share many words, so they share one of the rarest few words of each. Only such pairs are compared, by a
bit-parallel longest common subsequence.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numba import njit

from synthmill.tasks.cores import Array

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A word; in scripts without spaces, a letter."""
SLACK = 1e-9


def rouge_words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def find_too_alike(new: Sequence[str], existing: Sequence[str], threshold: float) -> tuple[Array, Array]:
    """Per new text, (the index of the first text it is too similar to, or -1; ROUGE-L with it). An index counts
    `existing` first, then `new`. A new text that is too similar is not compared with those after it. ROUGE-L equal to
    the threshold is too similar.
    """
    words = [rouge_words(text) for text in (*existing, *new)]
    counts = Counter(word for text in words for word in set(text))
    number_of = {word: n for n, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (item[1], item[0])))}
    tokens = [[number_of[word] for word in text] for text in words]
    starts = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(text) for text in tokens], out=starts[1:])
    flat = np.fromiter((token for text in tokens for token in text), np.int64, starts[-1])
    rarest = [sorted(set(text))[: rare_words_needed(len(text), len(set(text)), threshold)] for text in tokens]
    texts_of: list[list[int]] = [[] for _ in number_of]
    for place, rare in enumerate(rarest):
        for token in rare:
            texts_of[token].append(place)
    holder_starts = np.zeros(len(number_of) + 1, np.int64)
    np.cumsum([len(places) for places in texts_of], out=holder_starts[1:])
    holders = np.fromiter((place for places in texts_of for place in places), np.int64, holder_starts[-1])
    rare_starts = np.zeros(len(rarest) + 1, np.int64)
    np.cumsum([len(rare) for rare in rarest], out=rare_starts[1:])
    rare_flat = np.fromiter((token for rare in rarest for token in rare), np.int64, rare_starts[-1])
    match, score, limit = np.full(len(new), -1, np.int64), np.zeros(len(new)), threshold - SLACK
    match_texts(flat, starts, rare_flat, rare_starts, holders, holder_starts, len(existing), limit, match, score)
    return match, score


def rare_words_needed(length: int, different: int, threshold: float) -> int:
    """How many of its rarest words index a text. A text of n words that reaches the threshold with a text of m words
    shares a subsequence of at least threshold x (m + n) / 2 >= threshold x n / (2 - threshold) words with it.
    """
    shared = int(np.ceil(threshold * length / (2 - threshold) - SLACK))
    return min(different, max(1, length - shared + 1))


@njit(cache=True)
def match_texts(flat, starts, rare, rare_starts, holders, holder_starts, existing, threshold, match, score):  # type: ignore[no-untyped-def]
    """`find_too_alike` over numbers: words of texts, their rarest words, and the texts of each word."""
    count = len(starts) - 1
    compared_with = np.full(count, -1, np.int64)
    kept = np.ones(count, np.bool_)
    longest = 0
    for text in range(existing, count):
        longest = max(longest, starts[text + 1] - starts[text])
    blocks = longest // 64 + 1
    masks = np.zeros((len(holder_starts) - 1, blocks), np.uint64)
    for text in range(existing, count):
        words = flat[starts[text] : starts[text + 1]]
        m = len(words)
        used_blocks = m // 64 + 1
        for n in range(m):
            masks[words[n], n // 64] |= np.uint64(1) << np.uint64(n % 64)
        first, best = count, 0.0
        for position in range(rare_starts[text], rare_starts[text + 1]):
            token = rare[position]
            for n in range(holder_starts[token], holder_starts[token + 1]):
                candidate = holders[n]
                if candidate >= text:
                    break
                if not kept[candidate] or compared_with[candidate] == text or candidate >= first:
                    continue
                compared_with[candidate] = text
                candidate_words = flat[starts[candidate] : starts[candidate + 1]]
                shorter = min(m, len(candidate_words))
                if 2.0 * shorter < threshold * (m + len(candidate_words)):
                    continue
                shared = common_subsequence(masks, used_blocks, m, candidate_words)
                if 2.0 * shared >= threshold * (m + len(candidate_words)):
                    first, best = candidate, 2.0 * shared / (m + len(candidate_words))
        for n in range(m):
            masks[words[n], n // 64] = np.uint64(0)
        if first < count:
            match[text - existing], score[text - existing] = first, best
            kept[text] = False


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
