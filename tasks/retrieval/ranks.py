"""Ranks: where each candidate query of a turn brings the turn's gold passages, by one retriever.

Source: docs/papers.md#retpo, step B.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from synthmill.schemas.retpo import FUSION, WithRankings
from synthmill.schemas.rows import Dropped, arrow_schema
from synthmill.tasks.cores import Array
from synthmill.tasks.frames import ArtifactKey, Artifacts, FrameStage
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.fused_lists import search_fused
from synthmill.tasks.retrieval.indexes import locate
from synthmill.tasks.retrieval.retrievers import Retriever, RetrieverSettings

RANKINGS = pl.DataFrame(arrow_schema(WithRankings).empty_table()).schema["rankings"]
ABOVE = 10  # passages kept that stand above gold, per query
ALWAYS_IN_KEYS: dict[str, Any] = {
    "k1": 1.2,
    "b": 0.75,
    "stopwords": "en",
    "stemmer": "english",
    "model": "minilm",
    "query_prompt": "",
    "passage_prompt": "",
    "index": "auto",
    "rrf_k": 60,
    "path": "",
    "url": "",
    "api_key_env": "",
}
"""What keys of stored ranks count of every retriever, whatever its kind: one model once held the settings of all."""


class Ranks(FrameStage):
    """Turns with candidates -> the same with one retriever's ranking more. Each kind of retriever has a subclass."""

    needs: ClassVar = ("id", "gold", "candidates")
    adds: ClassVar = ("rankings",)
    version: ClassVar = "1"

    retriever: RetrieverSettings
    content: str = Field("", description="filled in: its model's weights or its run's content")
    passages: ArtifactKey = Field("", description="filled in: the key of the corpus")
    indexes: Artifacts = Field((), description="filled in: stage and key of each index")
    depth: int = Field(100, ge=1)
    ignore_identical_ids: bool = Field(False, description="leave the passage with the turn's own id out of the hits")

    @property
    def label(self) -> str:
        return self.retriever.label

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Settings that are newer than stored ranks enter the key only where they change ranks."""
        identity = super().identity(engines)
        settings = identity["settings"]
        if not self.ignore_identical_ids:
            del settings["ignore_identical_ids"]
        settings["retriever"] = {**ALWAYS_IN_KEYS, **settings["retriever"]}
        if settings["retriever"].get("ties") == "rank":
            del settings["retriever"]["ties"]
        return identity

    def open(self, root: Path) -> Retriever:
        """The retriever, ready to search; root: the store's folder."""
        raise TypeError(f"{type(self).__name__} must define open(root)")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        retriever = open_once(self, store)
        candidates = frame.select("id", "candidates").explode("candidates").unnest("candidates")
        ids, queries = candidates.select("id", "number").rows(), candidates["query"].to_list()
        fused = candidates["methods"].list.contains(FUSION).to_list()
        if self.ignore_identical_ids:
            own = locate(store, self.passages, candidates["id"]).to_numpy()
            hits = without_places(search_fused(retriever, ids, queries, fused, self.depth + 1), own)
        else:
            hits = search_fused(retriever, ids, queries, fused, self.depth)
        gold = [[passage["place"] for passage in row] for row in frame["gold"]]
        ranked = rank_all(hits, gold, frame["candidates"].list.len().to_list())
        rankings = pl.Series(
            "rankings", [[{"retriever": self.retriever.label, **ranking}] for ranking in ranked], dtype=RANKINGS
        )
        if "rankings" in frame.columns:
            return frame.with_columns(rankings=pl.concat_list("rankings", rankings)), []
        return frame.with_columns(rankings), []


@lru_cache(maxsize=8)
def open_once(stage: Ranks, root: Path) -> Retriever:
    """The stage's retriever, opened once per process."""
    return stage.open(root)


def without_places(hits: Hits, places: Array) -> Hits:
    """The hits without one place per query, and one column fewer. places: (queries,), < 0 for none."""
    own = (hits.places == places[:, None]) & (places[:, None] >= 0)
    order = np.argsort(own, axis=1, kind="stable")[:, :-1]
    return Hits(np.take_along_axis(hits.places, order, 1), np.take_along_axis(hits.scores, order, 1))


def rank_all(hits: Hits, gold: list[list[int]], counts: list[int]) -> list[dict[str, Any]]:
    """Per turn, the ranking of its candidates: hits of all candidates of all turns, in order; gold: places per turn;
    counts: candidates per turn.
    """
    per_query = [places for places, count in zip(gold, counts, strict=True) for _ in range(count)]
    starts = np.cumsum([0, *map(len, per_query)])
    of_query = np.repeat(np.arange(len(per_query)), np.diff(starts))
    flat = np.fromiter((place for places in per_query for place in places), np.int32, starts[-1])
    ranks = ranks_of(hits.places, of_query, flat)
    best = np.minimum.reduceat(ranks, starts[:-1]) if len(per_query) else ranks
    rewards, above = rewards_of(best, hits, of_query, ranks), passages_above(best, hits.places)
    rankings, query = [], 0
    for count in counts:
        numbers = range(query, query + count)
        rankings.append(
            {
                "ranks": [ranks[starts[q] : starts[q + 1]].tolist() for q in numbers],
                "rewards": rewards[query : query + count].tolist(),
                "above": [above[q] for q in numbers],
            }
        )
        query += count
    return rankings


def ranks_of(places: Array, of_query: Array, gold: Array) -> Array:
    """The rank of each gold place among the hits of its query, from 1; depth + 1 for a miss. It is counted, because a
    reciprocal loses it: int(1 / (1 / 93)) is 92.
    """
    ranks = np.empty(len(gold), np.int64)
    for start in range(0, len(gold), 1 << 16):  # (65,536, depth) comparisons at a time
        at = slice(start, start + (1 << 16))
        is_hit = (places[of_query[at]] == gold[at, None]) & (gold[at, None] >= 0)
        ranks[at] = np.where(is_hit.any(1), is_hit.argmax(1), places.shape[1]) + 1
    return ranks


def rewards_of(best: Array, hits: Hits, of_query: Array, ranks: Array) -> Array:
    """1 / (rank + 1 - margin), from best ranks and the hits; 0 for a miss. of_query, ranks: of every gold passage.

    margin: where the best gold passage's score stands between those of the passages that are not gold beside it, from 0
    (at the one below) to 1 (at the one above); at rank 1, its lead over the one below as a share of its lead over the
    last hit, 1 where nothing is below. So the reward never falls when the rank improves, lies in [1 / (rank + 1),
    1 / rank], and tells equal ranks apart.
    """
    depth = hits.places.shape[1]
    count = (hits.places != -1).sum(1)
    is_hit = best <= count
    rows, at, last = np.arange(len(best)), np.where(is_hit, best, 1) - 1, np.maximum(count, 1) - 1
    not_gold = np.arange(depth) < count[:, None]  # hits that are not gold
    not_gold[of_query[ranks <= depth], ranks[ranks <= depth] - 1] = False
    not_gold &= np.arange(depth) > at[:, None]
    own, end = hits.scores[rows, at], hits.scores[rows, last]
    below = np.where(not_gold.any(1), hits.scores[rows, not_gold.argmax(1)], own)
    above = hits.scores[rows, np.maximum(at - 1, 0)]
    lead, spread = own - below, np.where(at > 0, above - below, own - end)
    margin = np.divide(lead, spread, out=np.zeros(len(best)), where=spread > 0).clip(0, 1)
    margin = np.where((at == 0) & ~not_gold.any(1), 1, margin)
    return np.where(is_hit, 1 / (at + 2 - margin), 0.0)


def passages_above(best: Array, places: Array) -> list[list[int]]:
    """Per query, the first few passages above its best gold one."""
    return [[p for p in row[: min(rank - 1, ABOVE)].tolist() if p >= 0] for rank, row in zip(best, places, strict=True)]
