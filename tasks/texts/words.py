"""Words of texts, runs of words, and ROUGE-L of two texts."""

import re
from collections.abc import Sequence

from rapidfuzz.distance import Indel

GRAM = 8


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L's F1 over words and punctuation: 2 x longest common subsequence / (m + n); 1 for two empty texts."""
    return Indel.normalized_similarity(tokens_of(first.casefold()), tokens_of(second.casefold()))


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def grams(words: Sequence[str], length: int = GRAM) -> list[tuple[str, ...]]:
    """Every run of `length` words."""
    return list(zip(*(words[n:] for n in range(length)), strict=False))


WORDPUNCT = re.compile(r"\w+|[^\w\s]+")


def tokens_of(text: str) -> list[str]:
    """Words and runs of punctuation: nltk's wordpunct up to 3.9, by a pattern of our own.

    It parts a letter from its combining marks, so that a Hindi word is several tokens; nltk 3.10 does not.
    """
    return WORDPUNCT.findall(text)
