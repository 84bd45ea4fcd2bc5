"""A search endpoint of the user's as a retriever."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from synthmill.schemas.errors import EngineRefused
from synthmill.schemas.secrecy import check_endpoint
from synthmill.schemas.texts import loads
from synthmill.tasks.posting import Endpoint, read_api_key
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.indexes import locate
from synthmill.tasks.retrieval.ranks import Ranks
from synthmill.tasks.retrieval.retrievers import ByText, Retriever, RetrieverSettings, finite_score

QUERIES_PER_REQUEST = 64
Results = list[tuple[str, float]]
"""A query's hits, by passage id."""


class HttpRetrieverSettings(RetrieverSettings):
    """An endpoint of yours that searches."""

    short_forms: ClassVar = ("http://HOST:PORT/PATH",)

    kind: Literal["http"] = "http"
    url: str = Field(description="the endpoint")
    api_key_env: str = Field("", description="the environment variable that holds its key, if it wants one")

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        return {"url": spec} if spec.startswith(("http:", "https:")) else None

    @field_validator("url")
    @classmethod
    def no_secrets(cls, url: str) -> str:
        return check_endpoint(url)

    def content(self) -> str:
        read_api_key(self.url, self.api_key_env)
        return ""

    def ranks(self, indexes: Mapping[str, str], **fields: Any) -> "HttpRanks":
        return HttpRanks(**self.fields_of_ranks(indexes), **fields)


class HttpRanks(Ranks):
    """Turns with queries -> the same with the ranks that a search endpoint gives to the gold passages."""

    name: ClassVar = "http_ranks"

    retriever: HttpRetrieverSettings

    def open(self, root: Path) -> Retriever:
        return ByText(HttpSearch(self.retriever.url, self.retriever.api_key_env, root, self.passages))


class HttpSearch:
    """A search endpoint: POST {"queries": [TEXT], "k": N} -> {"results": [[{"id": ID, "score": X}]]}, best first."""

    def __init__(self, url: str, api_key_env: str, root: Path, passages: str) -> None:
        self.url, self.root, self.passages = url, root, passages
        self._endpoint = Endpoint(url, api_key_env, "searched")

    def search(self, queries: Sequence[str], depth: int) -> Hits:
        """The best passages of each query, asked for a few queries at a time."""
        results = [
            result
            for start in range(0, len(queries), QUERIES_PER_REQUEST)
            for result in self.ask(queries[start : start + QUERIES_PER_REQUEST], depth)
        ]
        return locate_hits(results, depth, self.root, self.passages)

    def ask(self, queries: Sequence[str], depth: int) -> list[Results]:
        """One request. Raises EngineError, or EngineRefused for what will never do."""
        body = self._endpoint.post({"queries": list(queries), "k": depth})
        return read_results(self.url, body, len(queries), depth)


def read_results(url: str, body: bytes, queries: int, depth: int) -> list[Results]:
    """The hits in an endpoint's reply, per query; raises EngineRefused for another form."""
    try:
        results = loads(body)["results"]
        if len(results) != queries:
            raise ValueError(f"{len(results)} results for {queries} queries")
        return [best_hits(hits, depth) for hits in results]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise EngineRefused(
            f'{url} answered in another form ({type(error).__name__}: {error}); expected {{"results": [[{{"id": ID, '
            '"score": NUMBER}]]}, a list per query'
        ) from error


def best_hits(hits: Iterable[Mapping[str, Any]], depth: int) -> Results:
    """A query's hits, best first, each passage once. Raises ValueError or TypeError for what is none."""
    score_by_id: dict[str, float] = {}
    for hit in sorted(hits, key=lambda hit: -finite_score(hit["score"])):
        if not isinstance(hit["id"], str | int):
            raise ValueError(f"{hit['id']!r:.40} is no id")
        str(hit["id"]).encode()
        score_by_id.setdefault(str(hit["id"]), finite_score(hit["score"]))
    return list(score_by_id.items())[:depth]


def locate_hits(results: Sequence[Results], depth: int, root: Path, passages: str) -> Hits:
    """Hits by passage id as hits by place."""
    ids = pl.Series("id", [passage for hits in results for passage, _ in hits], dtype=pl.String)
    flat = locate(root, passages, ids).to_numpy()
    places = np.full((len(results), depth), -1, np.int32)
    scores = np.zeros((len(results), depth), np.float32)
    start = 0
    for row, hits in enumerate(results):
        places[row, : len(hits)] = flat[start : start + len(hits)]
        scores[row, : len(hits)] = [score for _, score in hits]
        start += len(hits)
    return Hits(places, scores)
