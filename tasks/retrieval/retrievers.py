"""What looks for passages: BM25, dense, both fused, a TREC run read from disk, or a search endpoint."""

import zlib
from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import md5
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from schemas.errors import EngineRefused, InputError
from schemas.hashing import file_checksum
from schemas.retpo_settings import RetrieverSettings
from schemas.texts import loads
from storage.artifacts import Store, read_manifest
from storage.plain_files.lines import open_file
from tasks.cores import Array
from tasks.posting import Endpoint, read_api_key
from tasks.retrieval.bm25 import Bm25, Hits, Words
from tasks.retrieval.dense import Dense
from tasks.retrieval.indexes import locate
from tasks.vectors.embeddings import embedder_name

QUERIES_PER_REQUEST = 64
LARGEST = 1e30  # score


Id = tuple[str, int]


class Retriever(Protocol):
    def search(self, ids: Sequence[Id], queries: Sequence[str], depth: int) -> Hits:
        """The best passages of each query; ids: turn and number of each, for runs."""


class ByText:
    """A retriever that needs the queries only; the same string is looked for once."""

    def __init__(self, *retrievers: "Bm25 | Dense | HttpSearch", rrf_k: int = 60) -> None:
        self.retrievers, self.rrf_k = retrievers, rrf_k

    def search(self, ids: Sequence[Id], queries: Sequence[str], depth: int) -> Hits:
        number = {query: n for n, query in enumerate(dict.fromkeys(queries))}
        found = [retriever.search(list(number), depth) for retriever in self.retrievers]
        hits = found[0] if len(found) == 1 else fused(found, self.rrf_k)
        at = [number[query] for query in queries]
        return Hits(hits.places[at], hits.scores[at])


def fused(found: Sequence[Hits], rrf_k: int) -> Hits:
    """Reciprocal-rank fusion of two lists: a passage's score is the sum of 1 / (rrf_k + rank) over those that have it;
    equal scores in the order of the corpus. Source: Cormack, Clarke and Büttcher, SIGIR 2009.
    """
    depth = found[0].places.shape[1]
    places = np.concatenate([hits.places for hits in found], axis=1)
    scores = np.tile(1 / (rrf_k + 1 + np.arange(depth)), len(found)) * (places >= 0)
    order = np.argsort(places, axis=1, kind="stable")
    places, scores = np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1)
    same = (places[:, 1:] == places[:, :-1]) & (places[:, 1:] >= 0)  # in both lists: the second entry takes the sum
    scores[:, 1:] += np.where(same, scores[:, :-1], 0)
    scores[:, :-1] = np.where(same, 0, scores[:, :-1])
    order = np.lexsort((places, -scores), axis=1)[:, :depth]
    scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return Hits(np.where(scores > 0, places, -1).astype(np.int32), scores.astype(np.float32))


def run_names(turn: str, number: int, query: str) -> list[str]:
    """What a run may call a query: TURN-HASH (eight digits of its text's md5), TURN-k, and for the first also TURN."""
    hashed = md5(query.encode(), usedforsecurity=False).hexdigest()[:8]
    return [f"{turn}-{hashed}", f"{turn}-{number}", *([turn] if number == 0 else [])]


class RunFile:
    """A TREC run: `query Q0 passage rank score tag`, its queries called as `run_names` says; what it lacks found
    nothing.
    """

    def __init__(self, path: Path, content: str, root: Path, passages: str, ties: str = "rank") -> None:
        if file_checksum(path) != content:
            raise InputError(f"{path} has changed since the run began; run the same command again")
        self.queries, self._starts, named, self._passage, self._score = read_run(path, ties)
        self._place = locate(root, passages, pl.Series("id", named, dtype=pl.String)).to_numpy()

    def search(self, ids: Sequence[Id], queries: Sequence[str], depth: int) -> Hits:
        places = np.full((len(ids), depth), -1, np.int32)
        scores = np.zeros((len(ids), depth), np.float32)
        for row, ((turn, number), text) in enumerate(zip(ids, queries, strict=True)):
            query = next((self.queries[name] for name in run_names(turn, number, text) if name in self.queries), None)
            if query is not None:
                start = self._starts[query]
                mine = slice(start, min(start + depth, self._starts[query + 1]))
                found = self._place[self._passage[mine]]
                places[row, : len(found)], scores[row, : len(found)] = found, self._score[mine]
        return Hits(places, scores)


def read_run(path: Path, ties: str = "rank") -> tuple[dict[str, int], Array, list[str], Array, Array]:
    """(number by query, where its hits start, passages by number, passage and score of every hit); a query's hits stand
    together, best first: by score, then by rank, or with ties=trec_eval by score in single precision, then by id from
    z to a. Some 20 bytes a hit. Raises InputError that names the line.
    """
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    query, passage, rank, score = array("i"), array("i"), array("i"), array("d")
    try:
        with open_file(path) as file:
            for number, data in enumerate(file, 1):
                fields = data.decode("utf-8-sig").split()
                if not fields:
                    continue
                try:
                    rank.append(int(fields[3]))
                    score.append(finite(fields[4]))
                    query.append(queries.setdefault(fields[0], len(queries)))
                    passage.append(passages.setdefault(fields[2], len(passages)))
                except (ValueError, IndexError, OverflowError) as error:
                    raise InputError(
                        f"{path}, line {number}: {data[:80]!r} is no TREC run; expected "
                        "`query Q0 passage rank score tag`"
                    ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a TREC run") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    scores, order = np.asarray(score), np.asarray(rank)
    if ties == "trec_eval":
        scores = scores.astype(np.float32)
        from_z = {name: place for place, name in enumerate(sorted(passages, reverse=True))}  # code points, as strcmp
        order = np.array([from_z[name] for name in passages], np.int64)[np.asarray(passage, np.int64)]
    order = np.lexsort((order, -scores, np.asarray(query)))
    hits = np.asarray(query, np.int64)[order] * max(1, len(passages)) + np.asarray(passage)[order]
    order = order[np.sort(np.unique(hits, return_index=True)[1])]  # a passage that is there twice counts once
    starts = np.searchsorted(np.asarray(query)[order], np.arange(len(queries) + 1))
    return queries, starts, list(passages), np.asarray(passage)[order], scores[order].astype(np.float32)


def finite(given: str | float) -> float:
    """A score; raises ValueError for nan and infinity, too."""
    number = float(given)
    if not abs(number) <= LARGEST:
        raise ValueError(f"{given!s:.40} is no score")
    return number


def located(found: list[list[tuple[str, float]]], depth: int, root: Path, passages: str) -> Hits:
    """Hits by passage id as hits by place."""
    names = pl.Series("id", [name for one in found for name, _ in one], dtype=pl.String)
    flat = locate(root, passages, names).to_numpy()
    places = np.full((len(found), depth), -1, np.int32)
    scores = np.zeros((len(found), depth), np.float32)
    start = 0
    for row, one in enumerate(found):
        places[row, : len(one)] = flat[start : start + len(one)]
        scores[row, : len(one)] = [score for _, score in one]
        start += len(one)
    return Hits(places, scores)


class HttpSearch:
    """A search endpoint: POST {"queries": [TEXT], "k": N} -> {"results": [[{"id": ID, "score": X}]]}, best first."""

    def __init__(self, settings: RetrieverSettings, root: Path, passages: str) -> None:
        self.url, self.root, self.passages = settings.url, root, passages
        self._endpoint = Endpoint(settings.url, settings.api_key_env, "searched")

    def search(self, queries: Sequence[str], depth: int) -> Hits:
        """The best passages of each query, asked for a few queries at a time."""
        found = [
            one
            for at in range(0, len(queries), QUERIES_PER_REQUEST)
            for one in self.ask(queries[at : at + QUERIES_PER_REQUEST], depth)
        ]
        return located(found, depth, self.root, self.passages)

    def ask(self, queries: Sequence[str], depth: int) -> list[list[tuple[str, float]]]:
        """One request. Raises EngineError, or EngineRefused for what will never do."""
        said = self._endpoint.post({"queries": list(queries), "k": depth})
        return read_results(self.url, said, len(queries), depth)


def read_results(url: str, said: bytes, queries: int, depth: int) -> list[list[tuple[str, float]]]:
    """What the endpoint found; raises EngineRefused for another form."""
    try:
        results = loads(said)["results"]
        if len(results) != queries:
            raise ValueError(f"{len(results)} results for {queries} queries")
        return [best_hits(hits, depth) for hits in results]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise EngineRefused(
            f'{url} answered in another form ({type(error).__name__}: {error}); expected {{"results": [[{{"id": ID, '
            '"score": NUMBER}]]}, a list per query'
        ) from error


def best_hits(given: Any, depth: int) -> list[tuple[str, float]]:
    """A query's hits, best first, each passage once. Raises ValueError or TypeError for what is none."""
    found: dict[str, float] = {}
    for hit in sorted(given, key=lambda hit: -finite(hit["score"])):
        if not isinstance(hit["id"], str | int):
            raise ValueError(f"{hit['id']!r:.40} is no id")
        str(hit["id"]).encode()
        found.setdefault(str(hit["id"]), finite(hit["score"]))
    return list(found.items())[:depth]


def content_of(settings: RetrieverSettings) -> str:
    """What identifies a retriever besides its settings: its model's weights or its run's content. Raises InputError."""
    if settings.kind == "run":
        if not Path(settings.path).expanduser().is_file():
            raise InputError(f"{settings.path} is not there; expected a TREC run")
        return file_checksum(Path(settings.path).expanduser())
    if settings.kind == "http":
        read_api_key(settings.url, settings.api_key_env)
    return embedder_name(settings.model) if "dense" in settings.parts else ""


@lru_cache(maxsize=8)
def open_retriever(
    given: str, content: str, root: Path, passages: str, indexes: tuple[tuple[str, str], ...]
) -> Retriever:
    """given: settings as JSON; content: `content_of` them; indexes: (stage, key) of each it has. One per process."""
    settings = RetrieverSettings.model_validate_json(given)
    if settings.kind == "run":
        return RunFile(Path(settings.path).expanduser(), content, root, passages, settings.ties)
    if settings.kind == "http":
        return ByText(HttpSearch(settings, root, passages))
    found: list[Bm25 | Dense] = []
    for stage, key in indexes:
        folder = Store(root).files_folder(read_manifest(Store(root).manifest_path(stage, key)))
        if stage == "bm25_index":
            found.append(Bm25(folder, Words(settings.stopwords, settings.stemmer)))
        else:
            found.append(Dense(folder, settings.model, settings.query_prompt, root))
    return ByText(*found, rrf_k=settings.rrf_k)
