"""An endpoint of the user's as a scorer."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from synthmill.schemas.errors import EngineRefused
from synthmill.schemas.secrecy import check_endpoint
from synthmill.schemas.texts import loads
from synthmill.tasks.posting import Endpoint, read_api_key
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext, finite_or_none

POOLS_PER_REQUEST = 16
SCORES_FORM = 'expected {"scores": [[NUMBER, ...]]}, a list per pool with a number per answer'


class HttpScores(FrameScorer):
    """Pools -> the same, scored by an endpoint: POST {"pools": [{prompt, system, reference, answers}]} -> {"scores":
    [[number, ...], ...]}.
    """

    name: ClassVar = "http_scores"
    version: ClassVar = "1"

    label: str = "http"
    url: str
    api_key_env: str = Field("", exclude=True)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        endpoint = open_endpoint(self.url, self.api_key_env)
        for start in range(0, len(pools), POOLS_PER_REQUEST):
            sent = [
                {name: pool[name] for name in ("prompt", "system", "reference")}
                | {"answers": [answer["text"] for answer in pool["answers"]]}
                for pool in pools[start : start + POOLS_PER_REQUEST]
            ]
            yield from read_scores(self.url, endpoint.post({"pools": sent}), [len(pool["answers"]) for pool in sent])


class HttpSettings(ScorerSettings):
    """An endpoint of yours that scores pools."""

    short_forms: ClassVar = ("http://HOST:PORT/PATH",)

    kind: Literal["http"] = "http"
    url: str = Field(description="POST {pools: [{prompt, system, reference, answers}]} -> {scores: [[...]]}")
    api_key_env: str = Field("", description="the environment variable that holds its key, if it wants one")

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        return {"url": spec} if spec.startswith(("http:", "https:")) else None

    @field_validator("url")
    @classmethod
    def no_secrets(cls, url: str) -> str:
        return check_endpoint(url)

    def stage(self, context: ScoringContext) -> HttpScores:
        read_api_key(self.url, self.api_key_env)
        return HttpScores(label=self.label, url=self.url, api_key_env=self.api_key_env)


@cache
def open_endpoint(url: str, api_key_env: str) -> Endpoint:
    return Endpoint(url, api_key_env, "scored")


def read_scores(url: str, body: bytes, counts: Sequence[int]) -> list[list[float | None]]:
    """The scores of an endpoint's reply; raises EngineRefused for another form."""
    try:
        scores = [[finite_or_none(value) for value in values] for values in loads(body)["scores"]]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineRefused(f"{url} answered in another form ({type(error).__name__}); {SCORES_FORM}") from error
    if list(map(len, scores)) != list(counts):
        raise EngineRefused(f"{url} gave other numbers of scores than answers; {SCORES_FORM}")
    return scores
