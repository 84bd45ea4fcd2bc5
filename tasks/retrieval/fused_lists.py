"""Ranked lists made into one by reciprocal ranks: those of several retrievers, or of several queries."""

from collections.abc import Sequence

import numpy as np

from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.retrievers import Id, Retriever

RRF_K = 60
BETWEEN_QUERIES = "\n"


def search_fused(
    retriever: Retriever, ids: Sequence[Id], queries: Sequence[str], fused: Sequence[bool], depth: int
) -> Hits:
    """As `retriever.search`, but a query that is `fused` has several, one a line; each is searched for, and their lists
    are made into one.
    """
    if not any(fused):
        return retriever.search(ids, queries, depth)
    lines = [query.split(BETWEEN_QUERIES) if flag else [query] for query, flag in zip(queries, fused, strict=True)]
    of_line = [row_id for row_id, of_query in zip(ids, lines, strict=True) for _ in of_query]
    hits = retriever.search(of_line, [line for of_query in lines for line in of_query], depth)
    starts = np.cumsum([0, *map(len, lines)])
    each = [Hits(hits.places[line : line + 1], hits.scores[line : line + 1]) for line in range(starts[-1])]
    joined = [
        fuse_hits(each[start:end], RRF_K) if flag else each[start]
        for start, end, flag in zip(starts[:-1], starts[1:], fused, strict=True)
    ]
    return Hits(np.concatenate([hit.places for hit in joined]), np.concatenate([hit.scores for hit in joined]))


def fuse_hits(lists: Sequence[Hits], rrf_k: int) -> Hits:
    """Reciprocal-rank fusion of lists: a passage's score is the sum of 1 / (rrf_k + rank) over those that have it;
    equal scores in the order of the corpus. Source: Cormack, Clarke and Büttcher, SIGIR 2009.
    """
    depth = lists[0].places.shape[1]
    places = np.concatenate([hits.places for hits in lists], axis=1)
    scores = np.tile(1 / (rrf_k + 1 + np.arange(depth)), len(lists)) * (places >= 0)
    order = np.argsort(places, axis=1, kind="stable")
    places, own = np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1)
    scores = own.copy()
    for shift in range(1, len(lists)):  # the last entry of a passage that is in several lists takes the sum
        same = places[:, shift:] == places[:, :-shift]
        scores[:, shift:] += np.where(same, own[:, :-shift], 0)
    scores[:, :-1] = np.where(places[:, 1:] == places[:, :-1], 0, scores[:, :-1])
    order = np.lexsort((places, -scores.round(12)), axis=1)[:, :depth]  # sums of the same ranks are equal in any order
    scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return Hits(np.where(scores > 0, places, -1).astype(np.int32), scores.astype(np.float32))
