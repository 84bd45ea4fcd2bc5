"""BM25, Lucene's form: an index made by bm25s, searched by many queries at once.

bm25s computes every word's score in every passage when the index is made; a query adds up the columns of its words.
The search is our own, because ranks must be exact: equal scores stand in the order of the corpus, whatever the depth or
the number of threads, and passages that share no word with the query are no hits.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import orjson
from numba import njit

from synthmill.schemas.errors import InputError
from synthmill.tasks.cores import Array, on_all_cores

WORD = re.compile(r"(?u)\b\w\w+\b")  # scikit-learn's and bm25s's: two letters or more
NONE = ("", "none")


class Hits(NamedTuple):
    """What a retriever finds, best first. places: (queries, depth) int32, numbers in the corpus, -1 after the last hit,
    -2 for a passage that is not in the corpus. scores: (queries, depth) float32, 0 where there is no hit.
    """

    places: Array
    scores: Array


class Words:
    """Texts to words: lower case, no stop words, stemmed. Each word is stemmed once."""

    def __init__(self, stopwords: str, stemmer: str) -> None:
        self.stopwords = stop_list(stopwords)
        self._stem = stemmer_of(stemmer)
        self._stems: dict[str, str] = {}

    def of(self, text: str) -> list[str]:
        stems = []
        text = text.lower() if text.isascii() else normalize("NFC", text.lower())
        for word in WORD.findall(text):
            stem = self._stems.get(word)
            if stem is None:
                stem = self._stems[word] = "" if word in self.stopwords else self._stem(word)
            if stem:
                stems.append(stem)
        return stems


def stop_list(name: str) -> frozenset[str]:
    """A language's stop words. Raises InputError for one that bm25s does not have."""
    from bm25s.tokenization import _infer_stopwords

    try:
        return frozenset() if name in NONE else frozenset(_infer_stopwords(name))
    except ValueError as error:
        raise InputError(f"there is no stop word list {name!r}; expected none, en, de, fr, es, it, pt, ...") from error


def stemmer_of(name: str) -> Any:
    """A Snowball stemmer, or one that leaves words as they are. Raises InputError for one that is not there."""
    import Stemmer

    if name in NONE:
        return lambda word: word
    try:
        return Stemmer.Stemmer(name).stemWord
    except KeyError as error:
        raise InputError(
            f"there is no stemmer {name!r}; expected none, {', '.join(Stemmer.algorithms(aliases=False))}"
        ) from error


def build_bm25(texts: Iterable[str], folder: Path, *, k1: float, b: float, words: Words) -> None:
    """Write the index of a corpus; the same corpus gives the same bytes, whatever order Python's sets have."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    number: dict[str, int] = {}
    tokens = [[number.setdefault(word, len(number)) for word in words.of(text)] for text in texts]
    if not number:
        raise InputError("the corpus has no word that is not a stop word; look at retrievers.stopwords")
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index((tokens, number), create_empty_token=False, show_progress=False)
    index.save(folder)


class Bm25:
    """A searchable index, memory-mapped: workers on one machine share its pages."""

    def __init__(self, folder: Path, words: Words) -> None:
        self.words = words
        self._number: dict[str, int] = orjson.loads((folder / "vocab.index.json").read_bytes())
        self._arrays = [
            np.load(folder / f"{name}.csc.index.npy", mmap_mode="r") for name in ("data", "indices", "indptr")
        ]
        self.passages = int(orjson.loads((folder / "params.index.json").read_bytes())["num_docs"])

    def search(self, queries: Sequence[str], depth: int) -> Hits:
        """The `depth` best passages of each query; equal scores in the order of the corpus."""
        number = self._number
        tokens = [[number[word] for word in self.words.of(query) if word in number] for query in queries]
        starts = np.zeros(len(queries) + 1, np.int64)
        np.cumsum([len(words) for words in tokens], out=starts[1:])
        flat = np.fromiter((token for words in tokens for token in words), np.int64, starts[-1])
        places = np.full((len(queries), depth), -1, np.int32)
        scores = np.zeros((len(queries), depth), np.float32)
        on_all_cores(
            lambda first, last: add_up(*self._arrays, self.passages, flat, starts, first, last, places, scores),
            len(queries),
        )
        return Hits(places, scores)


@njit(nogil=True, cache=True)
def add_up(data, indices, indptr, passages, tokens, starts, first, last, places, scores):  # type: ignore[no-untyped-def]
    """Scores of queries first to last, and their best passages, into the rows of `places` and `scores`.

    A heap holds the best so far with the worst of them on top: the lowest score, and of equal ones the highest place.
    """
    depth = places.shape[1]
    sums = np.zeros(passages, np.float32)
    for query in range(first, last):
        sums[:] = 0
        for at in range(starts[query], starts[query + 1]):
            for entry in range(indptr[tokens[at]], indptr[tokens[at] + 1]):
                sums[indices[entry]] += data[entry]
        best, best_places = scores[query], places[query]
        size = 0
        least = np.float32(0)
        for place in range(passages):
            score = sums[place]
            if score <= least:  # of equal ones the later place is worse
                continue
            if size < depth:
                hole = size
                size += 1
                while hole > 0:
                    parent = (hole - 1) // 2
                    if best[parent] < score:
                        break
                    best[hole], best_places[hole] = best[parent], best_places[parent]
                    hole = parent
                best[hole], best_places[hole] = score, place
            else:
                sink(best, best_places, size, score, place)
            if size == depth:
                least = best[0]
        for end in range(size - 1, 0, -1):  # the worst goes to the end, until all are in order
            score, place = best[end], best_places[end]
            best[end], best_places[end] = best[0], best_places[0]
            sink(best, best_places, end, score, place)


@njit(nogil=True, cache=True)
def sink(best, best_places, size, score, place):  # type: ignore[no-untyped-def]
    """Put an entry in place of the heap's top."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        sibling = child + 1
        if sibling < size and (
            best[sibling] < best[child] or (best[sibling] == best[child] and best_places[sibling] > best_places[child])
        ):
            child = sibling
        if best[child] > score or (best[child] == score and best_places[child] < place):
            break
        best[hole], best_places[hole] = best[child], best_places[child]
        hole = child
    best[hole], best_places[hole] = score, place
