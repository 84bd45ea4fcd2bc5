"""What looks for passages: BM25, dense, both fused, a TREC run read from disk, or a search endpoint."""

import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from schemas.errors import EngineError, EngineRefused, InputError
from schemas.hashing import file_checksum
from schemas.retpo_settings import RetrieverSettings
from storage.artifacts import Store, read_manifest
from storage.sources import open_file
from tasks.bm25 import Bm25, Hits, Words
from tasks.dense import Dense
from tasks.embeddings import embedder_name
from tasks.indexes import locate

ATTEMPTS, FIRST_WAIT_S, TIMEOUT_S, QUERIES_PER_REQUEST = 5, 0.5, 60, 64


class Retriever(Protocol):
    def search(self, ids: Sequence[str], queries: Sequence[str], depth: int) -> Hits:
        """The best passages of each query; ids: the queries' own names, `TURN-k`, for runs."""


class ByText:
    """A retriever that needs the queries only; the same string is looked for once."""

    def __init__(self, *retrievers: Bm25 | Dense, rrf_k: int = 60) -> None:
        self.retrievers, self.rrf_k = retrievers, rrf_k

    def search(self, ids: Sequence[str], queries: Sequence[str], depth: int) -> Hits:
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


class RunFile:
    """A TREC run: `query Q0 passage rank score tag`; its queries are called TURN-k, or TURN where k is 0. What it does
    not have found nothing.
    """

    def __init__(self, path: Path, root: Path, passages: str) -> None:
        self.root, self.passages = root, passages
        self._found = read_run(path)

    def search(self, ids: Sequence[str], queries: Sequence[str], depth: int) -> Hits:
        found = [self._found.get(name) or self._found.get(name.removesuffix("-0"), []) for name in ids]
        return located([hits[:depth] for hits in found], depth, self.root, self.passages)


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


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """query -> (passage, score), best first: by score, then by rank. Raises InputError that names the line."""
    found: dict[str, list[tuple[float, int, str]]] = {}
    try:
        with open_file(path) as file:
            for number, data in enumerate(file, 1):
                fields = data.decode().split()
                try:
                    query, _, passage, rank, score = fields[:5]
                    found.setdefault(query, []).append((-float(score), int(rank), passage))
                except ValueError as error:
                    raise InputError(
                        f"{path}, line {number}: {data[:80]!r} is no TREC run; expected "
                        "`query Q0 passage rank score tag`"
                    ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a TREC run") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return {query: [(passage, -score) for score, _, passage in sorted(hits)] for query, hits in found.items()}


class HttpSearch:
    """A search endpoint: POST {"queries": [TEXT], "k": N} -> {"results": [[{"id": ID, "score": X}]]}, best first."""

    def __init__(self, settings: RetrieverSettings, root: Path, passages: str) -> None:
        self.settings, self.root, self.passages = settings, root, passages

    def search(self, ids: Sequence[str], queries: Sequence[str], depth: int) -> Hits:
        number = {query: n for n, query in enumerate(dict.fromkeys(queries))}
        texts = list(number)
        found = [
            one
            for at in range(0, len(texts), QUERIES_PER_REQUEST)
            for one in self.ask(texts[at : at + QUERIES_PER_REQUEST], depth)
        ]
        hits = located(found, depth, self.root, self.passages)
        at = [number[query] for query in queries]
        return Hits(hits.places[at], hits.scores[at])

    def ask(self, queries: list[str], depth: int) -> list[list[tuple[str, float]]]:
        """One request, tried again a few times. Raises EngineError, or EngineRefused for what will never do."""
        import httpx

        url, key = self.settings.url, os.environ.get(self.settings.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        fault = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                said = httpx.post(url, json={"queries": queries, "k": depth}, headers=headers, timeout=TIMEOUT_S)
            except httpx.HTTPError as error:
                fault = f"{type(error).__name__}: {error}"
                continue
            if said.status_code == 200:
                return read_results(url, said, len(queries), depth)
            fault = f"it said {said.status_code}: {' '.join(said.text.split())[:200]}"
            if said.status_code < 500 and said.status_code not in (408, 429):
                raise EngineRefused(f"{url} refused a search: {fault}")
        raise EngineError(f"{url} cannot be searched ({fault}); see that it runs, then run the same command again")


def read_results(url: str, said: Any, queries: int, depth: int) -> list[list[tuple[str, float]]]:
    """What the endpoint found; raises EngineRefused for another form."""
    try:
        results = said.json()["results"]
        if len(results) != queries:
            raise ValueError(f"{len(results)} results for {queries} queries")
        return [[(str(hit["id"]), float(hit["score"])) for hit in hits[:depth]] for hits in results]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineRefused(
            f'{url} answered in another form ({type(error).__name__}: {error}); expected {{"results": [[{{"id": ID, '
            '"score": NUMBER}]]}, a list per query'
        ) from error


def content_of(settings: RetrieverSettings) -> str:
    """What identifies a retriever besides its settings: its model's weights or its run's content. Raises InputError."""
    if settings.kind == "run":
        if not Path(settings.path).expanduser().is_file():
            raise InputError(f"{settings.path} is not there; expected a TREC run")
        return file_checksum(Path(settings.path).expanduser())
    return embedder_name(settings.model) if "dense" in settings.parts else ""


@lru_cache(maxsize=8)
def open_retriever(given: str, root: Path, passages: str, indexes: tuple[tuple[str, str], ...]) -> Retriever:
    """given: its settings as JSON. indexes: (stage, key) of each index it has. One per process."""
    settings = RetrieverSettings.model_validate_json(given)
    if settings.kind == "run":
        return RunFile(Path(settings.path).expanduser(), root, passages)
    if settings.kind == "http":
        return HttpSearch(settings, root, passages)
    found: list[Bm25 | Dense] = []
    for stage, key in indexes:
        folder = Store(root).files_folder(read_manifest(Store(root).manifest_path(stage, key)))
        if stage == "bm25_index":
            found.append(Bm25(folder, Words(settings.stopwords, settings.stemmer)))
        else:
            found.append(Dense(folder, settings.model, settings.query_prompt, root))
    return ByText(*found, rrf_k=settings.rrf_k)
