"""A TREC run as a retriever: ranks that another program wrote."""

import zlib
from array import array
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import file_checksum
from synthmill.schemas.local_paths import LocalPath
from synthmill.storage.plain_files.lines import open_file
from synthmill.tasks.cores import Array
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.indexes import locate
from synthmill.tasks.retrieval.ranks import Ranks
from synthmill.tasks.retrieval.retrievers import Id, Retriever, RetrieverSettings, finite_score

Ties = Literal["rank", "trec_eval"]


class RunSettings(RetrieverSettings):
    """A TREC run: a file with the ranks of another program."""

    short_forms: ClassVar = ("run:FILE",)

    kind: Literal["run"] = "run"
    path: LocalPath = Field(description="the file")
    ties: Ties = Field(
        "rank",
        description="equal scores in the order of its rank column; or as trec_eval has them: scores in single "
        "precision, then ids from z to a, whatever the ranks",
    )

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        kind, _, path = spec.partition(":")
        return {"path": path} if kind == "run" and path else None

    @property
    def file(self) -> Path:
        return Path(self.path).expanduser()

    def content(self) -> str:
        if not self.file.is_file():
            raise InputError(f"{self.path} is not there; expected a TREC run")
        return file_checksum(self.file)

    def ranks(self, indexes: Mapping[str, str], **fields: Any) -> "RunRanks":
        return RunRanks(**self.fields_of_ranks(indexes), **fields)


class RunRanks(Ranks):
    """Turns with queries -> the same with the ranks of the gold passages in a TREC run."""

    name: ClassVar = "run_ranks"

    retriever: RunSettings

    def open(self, root: Path) -> Retriever:
        return RunFile(self.retriever.file, self.content, root, self.passages, self.retriever.ties)


def run_names(turn: str, number: int, query: str) -> list[str]:
    """What a run may call a query: TURN-HASH (eight digits of its text's md5), TURN-k, and for the first also TURN."""
    hashed = md5(query.encode(), usedforsecurity=False).hexdigest()[:8]
    return [f"{turn}-{hashed}", f"{turn}-{number}", *([turn] if number == 0 else [])]


class RunFile:
    """A TREC run: `query Q0 passage rank score tag`, with queries named as in `run_names`. A query that it lacks has no
    hits.
    """

    def __init__(self, path: Path, content: str, root: Path, passages: str, ties: Ties = "rank") -> None:
        if file_checksum(path) != content:
            raise InputError(f"{path} has changed since the run began; run the same command again")
        self.queries, self._starts, passage_ids, self._passage, self._score = read_run(path, ties)
        self._place = locate(root, passages, pl.Series("id", passage_ids, dtype=pl.String)).to_numpy()

    def search(self, ids: Sequence[Id], queries: Sequence[str], depth: int) -> Hits:
        places = np.full((len(ids), depth), -1, np.int32)
        scores = np.zeros((len(ids), depth), np.float32)
        for row, ((turn, number), text) in enumerate(zip(ids, queries, strict=True)):
            query = next((self.queries[name] for name in run_names(turn, number, text) if name in self.queries), None)
            if query is not None:
                start = self._starts[query]
                hits = slice(start, min(start + depth, self._starts[query + 1]))
                hit_places = self._place[self._passage[hits]]
                places[row, : len(hit_places)], scores[row, : len(hit_places)] = hit_places, self._score[hits]
        return Hits(places, scores)


def read_run(path: Path, ties: Ties = "rank") -> tuple[dict[str, int], Array, list[str], Array, Array]:
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
                    score.append(finite_score(fields[4]))
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
