"""Scorers that ask no chat model: R3, weights over scores, a user's own function, an endpoint.

Each adds one `Score` to a pool. A number that is not finite counts as missing.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
import polars as pl
from pydantic import Field

from schemas.errors import EngineRefused, InputError
from schemas.hashing import file_checksum
from schemas.pools import Score, ScoredPool
from schemas.rows import Dropped, arrow_schema
from schemas.texts import loads
from tasks.frames import FrameStage
from tasks.posting import Endpoint
from tasks.scorers.r3 import r3
from tasks.vectors.embeddings import embedder_name

Pool = dict[str, Any]
Values = list[float | None]
POOLS_PER_REQUEST = 16
SCORES = pl.DataFrame(arrow_schema(ScoredPool).empty_table()).schema["scores"]


class FrameScorer(FrameStage):
    """A scorer that works on whole frames. label: the score's name."""

    needs: ClassVar = ("id", "prompt", "system", "reference", "answers", "scores")
    adds: ClassVar = ("scores",)

    label: str = "score"

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        """Per pool, a number per answer. pools: rows as dicts."""
        raise TypeError(f"{type(self).__name__} must define score(pools, store)")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        """Adds a score to every pool; one without any stays, for another score may be the one that counts."""
        pools = frame.to_dicts()
        told = {"scorer": self.name, "version": self.version, **self.model_dump(mode="json", exclude={"label"})}
        settings = orjson.dumps(told).decode()
        scores = []
        for pool, given in zip(pools, self.score(pools, store), strict=True):
            try:
                values = [finite(value) for value in given]
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{self.label} gave {given!r:.60}; expected a number per answer") from error
            if len(values) != len(pool["answers"]):
                raise InputError(f"{self.label} gave {len(values)} scores for {len(pool['answers'])} answers")
            scores.append(
                [*pool["scores"], Score(scorer=self.label, settings=settings, values=tuple(values)).model_dump()]
            )
        return frame.with_columns(pl.Series("scores", scores, dtype=SCORES)), []


class R3Scores(FrameScorer):
    """R3: length x relevance x variety (open-ended), or likeness to the reference x variety (constrained).

    Source: docs/papers.md#r3. auto: constrained where a prompt has a reference. `constrained` scores no prompt without.
    """

    name: ClassVar = "r3_scores"
    version: ClassVar = "1"
    embeds: ClassVar = True

    form: Literal["auto", "open-ended", "constrained"] = "auto"
    embedder: str = "minilm"
    embedder_identity: str = Field("", description="filled in from `embedder`: the model's own name and fingerprint")

    @classmethod
    def with_embedder(cls, embedder: str, **fields: Any) -> "R3Scores":
        """The stage with its embedder's identity resolved; raises InputError when there is no such embedder."""
        return cls(embedder=embedder, embedder_identity=embedder_name(embedder), **fields)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        bound = [self.form != "open-ended" and bool(pool["reference"]) for pool in pools]
        anchors = [pool["reference"] if one else pool["prompt"] for pool, one in zip(pools, bound, strict=True)]
        texts = [[answer["text"] for answer in pool["answers"]] for pool in pools]
        values = r3(anchors, texts, bound, self.embedder, store)
        if self.form == "constrained":
            values = [mine if one else [math.nan] * len(mine) for mine, one in zip(values, bound, strict=True)]
        return values


class WeightedScores(FrameScorer):
    """A weighted sum of scores that are there already; missing where one of them is. HelpSteer2's, for instance.

    Source: docs/papers.md#helpsteer.
    """

    name: ClassVar = "weighted_scores"
    version: ClassVar = "1"

    weights: dict[str, float]

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        for pool in pools:
            there = {score["scorer"]: score["values"] for score in pool["scores"]}
            if missing := sorted(self.weights.keys() - there.keys()):
                raise InputError(
                    f"{self.label} needs the scores {', '.join(missing)}; found {', '.join(there) or 'none'}"
                )
            yield [
                weighted(dict(zip(there, one, strict=True)), self.weights) for one in zip(*there.values(), strict=True)
            ]


class PythonScores(FrameScorer):
    """A user's own function: function(prompt, answers, reference) -> a number per answer."""

    name: ClassVar = "python_scores"
    version: ClassVar = "1"

    function: str
    content: str = Field("", description="filled in: the file's checksum, so that another version scores again")

    @classmethod
    def of(cls, function: str, label: str) -> "PythonScores":
        """With the function found; raises InputError when it cannot be."""
        file, _, name = function.rpartition(":")
        path = Path(file).expanduser().resolve()
        if not path.is_file():
            raise InputError(f"cannot load {function}: there is no file {path}")
        content = file_checksum(path)
        load_function(f"{path}:{name}", content)
        return cls(label=label, function=f"{path}:{name}", content=content)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        function = load_function(self.function, self.content)
        for pool in pools:
            texts = [answer["text"] for answer in pool["answers"]]
            try:
                found = function(pool["prompt"], texts, pool["reference"])
                if isinstance(found, str | bytes | Mapping | set):
                    raise TypeError(f"it returned {type(found).__name__}")
                yield list(found)
            except (Exception, SystemExit) as error:
                raise InputError(
                    f"{self.function} failed on the prompt {pool['id']}: {type(error).__name__}: {error}; it is called "
                    "with (prompt, answers, reference) and returns a number per answer"
                ) from error


class HttpScores(FrameScorer):
    """An endpoint: POST {"pools": [{prompt, system, reference, answers}]} -> {"scores": [[number, ...], ...]}."""

    name: ClassVar = "http_scores"
    version: ClassVar = "1"

    url: str
    api_key_env: str = Field("", exclude=True)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        endpoint = open_endpoint(self.url, self.api_key_env)
        for start in range(0, len(pools), POOLS_PER_REQUEST):
            some = pools[start : start + POOLS_PER_REQUEST]
            asked = [
                {name: pool[name] for name in ("prompt", "system", "reference")}
                | {"answers": [answer["text"] for answer in pool["answers"]]}
                for pool in some
            ]
            yield from scores_of(self.url, endpoint.post({"pools": asked}), [len(one["answers"]) for one in asked])


@cache
def open_endpoint(url: str, api_key_env: str) -> Endpoint:
    return Endpoint(url, api_key_env, "scored")


def scores_of(url: str, said: bytes, counts: Sequence[int]) -> list[Values]:
    """What the endpoint found; raises EngineRefused for another form."""
    try:
        scores = loads(said)["scores"]
        found = [[finite(value) for value in mine] for mine in scores]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineRefused(f"{url} answered in another form ({type(error).__name__}); {SCORES_FORM}") from error
    if list(map(len, found)) != list(counts):
        raise EngineRefused(f"{url} gave other numbers of scores than answers; {SCORES_FORM}")
    return found


SCORES_FORM = 'expected {"scores": [[NUMBER, ...]]}, a list per pool with a number per answer'


@cache
def load_function(function: str, content: str) -> Callable[..., Iterable[Any]]:
    """FILE.py:FUNCTION, once per content of the file; raises InputError when it cannot be loaded."""
    file, _, name = function.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"synthmill_scorer_{content[:8]}_{Path(file).stem}", file)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # as an import does: dataclasses look for their module there
        spec.loader.exec_module(module)
        found = getattr(module, name)
    except Exception as error:
        raise InputError(f"cannot load {function}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise InputError(f"{function} is no function")
    return found  # type: ignore[no-any-return]


def weighted(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of named values; None where one is missing."""
    there = {name: value for name in weights if (value := values.get(name)) is not None}
    return sum(weights[name] * value for name, value in there.items()) if len(there) == len(weights) else None


def finite(value: Any) -> float | None:
    """A finite number as float, else None; numpy's and torch's numbers count. Raises TypeError for no number."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
