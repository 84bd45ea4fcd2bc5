"""What ranks say: the queries to imitate, the pairs to prefer, the passages to tell apart.

Source: docs/papers.md#retpo, step C.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.retpo import HardNegative, ParetoPair, Pick, QueryPair
from synthmill.schemas.rows import Dropped, Pool, row_columns
from synthmill.storage.artifacts import Store, read_manifest
from synthmill.storage.published.rows import thinks
from synthmill.tasks.frames import ArtifactKey, FrameStage, frame_schema
from synthmill.tasks.retrieval.indexes import locate, parts_of, passage_texts

Row = dict[str, Any]
SPARE = 8  # negatives looked at beyond those wanted: some have a gold passage's text
CARRIED = ("conversation", "turn", "history", "question")


def best_ranks(ranking: Row) -> list[int]:
    """Per candidate, the rank of its best gold passage."""
    return [min(ranks) for ranks in ranking["ranks"]]


def pick_best(ranks: Sequence[Sequence[int]], top: int, threshold: int) -> list[int]:
    """The places of the `top` best queries whose best gold passage has at most the rank `threshold`; if none has, the
    best one. Ties go to the query that ranks the other gold passages better, then to the lower place.

    ranks: per query, of each gold passage.
    """
    order = sorted(range(len(ranks)), key=lambda place: (sorted(ranks[place]), place))
    return [place for place in order if min(ranks[place]) <= threshold][:top] or order[:1]


def admissible_pairs(ranks: Sequence[int], threshold: int) -> list[tuple[int, int]]:
    """All (preferred, other) such that the preferred query has the lower rank, and that is at most the threshold."""
    order = sorted(range(len(ranks)), key=lambda place: (ranks[place], place))
    return [
        (first, second)
        for n, first in enumerate(order)
        for second in order[n + 1 :]
        if ranks[first] < ranks[second] and ranks[first] <= threshold
    ]


def undominated_pairs(ranks: Sequence[Sequence[int]], threshold: int) -> list[tuple[int, int]]:
    """All (preferred, other) such that no retriever ranks the preferred query lower, one at least ranks it higher, and
    all rank it within the threshold. ranks: per retriever, per candidate.
    """
    vectors = list(zip(*ranks, strict=True))
    return [
        (i, j)
        for i, first in enumerate(vectors)
        for j, second in enumerate(vectors)
        if max(first) <= threshold and first != second and all(a <= b for a, b in zip(first, second, strict=True))
    ]


def draw_pairs(
    pairs: list[tuple[int, int]], most: int, seed: int, about: str, queries: Sequence[str]
) -> list[tuple[int, int]]:
    """At most `most` random pairs, in the order of their texts' hashes, so that one pair more moves no other."""

    def draw(pair: tuple[int, int]) -> bytes:
        return digest(["pair", seed, about, queries[pair[0]], queries[pair[1]]])

    return sorted(pairs, key=draw)[:most]


def agreement(pair: tuple[int, int], other_ranks: Sequence[Sequence[int]]) -> float | None:
    """Over the other retrievers: +1 where they prefer the same query, -1 where the other one, 0 on a tie; the mean."""
    signs = [(ranks[pair[1]] > ranks[pair[0]]) - (ranks[pair[1]] < ranks[pair[0]]) for ranks in other_ranks]
    return sum(signs) / len(signs) if signs else None


class RankedStage(FrameStage):
    """A stage that makes rows of turns with rankings. It drops first turns (`first_turn`), unless `first_turns`."""

    needs: ClassVar = ("id", "turn", "history", "candidates", "rankings")
    makes: ClassVar[Any]
    nothing: ClassVar[str]
    """Why a turn makes no row."""

    first_turns: bool = False
    retrievers: int = Field(1, ge=1, exclude=True, description="for plans")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "makes" in cls.__dict__:
            cls.adds = row_columns(cls.makes)

    def rows_of(self, turn: Row) -> Iterator[Row]:
        raise TypeError(f"{type(self).__name__} must define rows_of(turn)")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows_made: list[Row] = []
        dropped: list[Dropped] = []
        for turn in frame.iter_rows(named=True):
            if turn["turn"] and not turn["history"] and not self.first_turns:
                dropped.append(Dropped(id=turn["id"], reason="first_turn"))
            elif rows := list(self.rows_of(turn)):
                rows_made.extend(
                    {
                        **{name: turn[name] for name in CARRIED},
                        **row,
                        "id": child_id(turn["id"], f"{self.name}-{n}"),
                        "parent_id": turn["id"],
                    }
                    for n, row in enumerate(rows)
                )
            else:
                dropped.append(Dropped(id=turn["id"], reason=self.nothing))
        return pl.DataFrame(rows_made, schema=frame_schema(self.makes, thinks(frame.schema["candidates"]))), dropped


class QueryPicks(RankedStage):
    """Ranked queries -> per retriever, a turn's best ones, for SFT. Drops: never_retrieved."""

    name: ClassVar = "query_picks"
    version: ClassVar = "1"
    makes: ClassVar = Pick
    nothing: ClassVar = "never_retrieved"

    top: int = Field(5, ge=1)
    threshold: int = Field(30, ge=1)
    keep_missed: bool = Field(True, description="also turns whose gold passage no query finds")
    depth: int = Field(100, ge=1)

    def rows_per_row(self) -> int:
        return self.top * self.retrievers

    def rows_of(self, turn: Row) -> Iterator[Row]:
        for ranking in turn["rankings"]:
            ranks = best_ranks(ranking)
            if min(ranks) > self.depth and not self.keep_missed:
                continue
            for n, place in enumerate(pick_best(ranking["ranks"], self.top, self.threshold)):
                yield {
                    "retriever": ranking["retriever"],
                    **turn["candidates"][place],
                    "rank": ranks[place],
                    "place": n,
                }


class QueryPairs(RankedStage):
    """Ranked queries -> per retriever, preferred ones over others, for DPO. Drops: no_pair."""

    name: ClassVar = "query_pairs"
    version: ClassVar = "1"
    makes: ClassVar[Any] = QueryPair
    nothing: ClassVar = "no_pair"

    per_turn: int = Field(8, ge=1)
    threshold: int = Field(30, ge=1)
    seed: int = Field(0, ge=0)

    def rows_per_row(self) -> int:
        return self.per_turn * self.retrievers

    def rows_of(self, turn: Row) -> Iterator[Row]:
        queries = [candidate["query"] for candidate in turn["candidates"]]
        ranks = [best_ranks(ranking) for ranking in turn["rankings"]]
        for n, ranking in enumerate(turn["rankings"]):
            pairs = admissible_pairs(ranks[n], self.threshold)
            about = f"{turn['id']} {ranking['retriever']}"
            for i, j in draw_pairs(pairs, self.per_turn, self.seed, about, queries):
                yield {
                    "retriever": ranking["retriever"],
                    "chosen": queries[i],
                    "rejected": queries[j],
                    "chosen_rank": ranks[n][i],
                    "rejected_rank": ranks[n][j],
                    "chosen_reward": ranking["rewards"][i],
                    "rejected_reward": ranking["rewards"][j],
                    "agreement": agreement((i, j), ranks[:n] + ranks[n + 1 :]),
                    **pair_thoughts(turn, i, j),
                }


def pair_thoughts(turn: Row, chosen: int, rejected: int) -> Row:
    """What was thought before a pair's queries; a turn without any thinking has None, and no column takes it."""
    places = {"chosen": chosen, "rejected": rejected}
    return {f"{side}_reasoning": turn["candidates"][place].get("reasoning") for side, place in places.items()}


class ParetoPairs(QueryPairs):
    """Ranked queries -> preferred queries over others, for DPO, where no retriever objects. Drops: no_pair."""

    name: ClassVar = "pareto_pairs"
    makes: ClassVar = ParetoPair

    def rows_of(self, turn: Row) -> Iterator[Row]:
        queries = [candidate["query"] for candidate in turn["candidates"]]
        names = [ranking["retriever"] for ranking in turn["rankings"]]
        ranks = [best_ranks(ranking) for ranking in turn["rankings"]]
        pairs = undominated_pairs(ranks, self.threshold)
        for i, j in draw_pairs(pairs, self.per_turn, self.seed, f"{turn['id']} pareto", queries):
            yield {
                "retriever": "+".join(names),
                "chosen": queries[i],
                "rejected": queries[j],
                "retrievers": names,
                "chosen_ranks": [candidate_ranks[i] for candidate_ranks in ranks],
                "rejected_ranks": [candidate_ranks[j] for candidate_ranks in ranks],
                **pair_thoughts(turn, i, j),
            }


class RankedPool(Pool):
    """A turn's queries as a pool of answers with rewards, by one retriever: what every cut over pools takes."""

    retriever: str
    rewards: tuple[float, ...]


class QueryPools(RankedStage):
    """Ranked queries -> per retriever, a turn's queries as a pool with rewards; the prompt: the conversation."""

    name: ClassVar = "query_pools"
    version: ClassVar = "1"
    makes: ClassVar = RankedPool
    nothing: ClassVar = "no_query"

    def rows_per_row(self) -> int:
        return self.retrievers

    def rows_of(self, turn: Row) -> Iterator[Row]:
        messages = [*turn["history"], {"role": "user", "content": turn["question"]}]
        for ranking in turn["rankings"]:
            yield {
                "retriever": ranking["retriever"],
                "prompt": "\n".join(f"{message['role']}: {message['content']}" for message in messages),
                "system": None,
                "source": turn["source"],
                "note": "",
                "answers": [
                    {
                        "answer_index": n,
                        "text": candidate["query"],
                        "finish_reason": "stop",
                        "completion_tokens": 0,
                        "reasoning": candidate.get("reasoning"),
                    }
                    for n, candidate in enumerate(turn["candidates"])
                ],
                "rewards": ranking["rewards"],
            }


class MinedNegatives(RankedStage):
    """Ranked queries -> passages that worse ones bring above the gold one, per retriever: a row for each. Drops:
    no_negative.

    Passages of the nearest misses come first. Texts equal to a gold passage's are left out, and so is the passage with
    the turn's own id, which is the question itself. Others may still answer the question, where judgements have gaps.
    """

    name: ClassVar = "hard_negatives"
    version: ClassVar = "2"
    whole: ClassVar = True
    makes: ClassVar = HardNegative
    nothing: ClassVar = "no_negative"

    count: int = Field(4, ge=1)
    passages: ArtifactKey = Field("", description="filled in: the key of the corpus")

    def rows_per_row(self) -> int:
        return self.count * self.retrievers

    def rows_of(self, turn: Row) -> Iterator[Row]:
        """Rows with places of passages instead of texts; SPARE more than are kept, because `apply` drops some."""
        for ranking in turn["rankings"]:
            ranks = best_ranks(ranking)
            best = pick_best(ranking["ranks"], 1, 1)[0]
            worse = sorted((n for n, rank in enumerate(ranks) if rank > ranks[best]), key=lambda n: (ranks[n], n))
            query_by_place: dict[int, int] = {}
            for n in worse:
                for place in ranking["above"][n]:
                    query_by_place.setdefault(place, n)
            for place, n in list(query_by_place.items())[: self.count + SPARE]:
                yield {
                    "retriever": ranking["retriever"],
                    "query": turn["candidates"][best]["query"],
                    "rejected": turn["candidates"][n]["query"],
                    "positive": str(gold_place(turn, ranking, best)),
                    "negative": str(place),
                }

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        mined, dropped = super().apply(frame, store)
        own_places = locate(store, self.passages, frame["id"])
        gold = {
            turn: {place for place in (own, *(passage["place"] for passage in passages)) if place >= 0}
            for turn, passages, own in zip(frame["id"], frame["gold"], own_places, strict=True)
        }
        places = {int(place) for place in {*mined["positive"], *mined["negative"]}}
        text = texts_at(Store(store), self.passages, places.union(*gold.values()))
        kept: list[Row] = []
        for (turn, _), group in groupby(mined.iter_rows(named=True), itemgetter("parent_id", "retriever")):
            answers, fresh = {text[place] for place in gold[turn]}, dict[str, Row]()
            for row in group:
                fresh.setdefault(text[int(row["negative"])], row)
            kept += [
                {**row, "positive": text[int(row["positive"])], "negative": negative}
                for negative, row in fresh.items()
                if negative not in answers
            ][: self.count]
        lost = set(mined["parent_id"]) - {row["parent_id"] for row in kept}
        drops = [Dropped(id=row, reason=self.nothing) for row in frame["id"] if row in lost]
        return pl.DataFrame(kept, schema=mined.schema), dropped + drops


def gold_place(turn: Row, ranking: Row, query: int) -> int:
    """The gold passage that a query finds first; of those it misses, one that is in the corpus."""
    in_corpus = [n for n, passage in enumerate(turn["gold"]) if passage["place"] >= 0]
    first = min(in_corpus, key=lambda n: (ranking["ranks"][query][n], n))
    return int(turn["gold"][first]["place"])


def texts_at(store: Store, key: str, places: set[int]) -> dict[int, str]:
    """Passages by place, in one pass over the corpus."""
    texts: dict[int, str] = {}
    start = 0
    for frame in parts_of(store, read_manifest(store.manifest_path("passages", key)), lambda _: None):
        rows = [place - start for place in places if start <= place < start + frame.height]
        texts.update(zip((place + start for place in rows), passage_texts(frame[rows]), strict=True))
        start += frame.height
    return texts
