"""Scorers: what gives each answer of a pool a number. Several live side by side, each under its own name."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.errors import Drop
from schemas.multifaceted import Rubric
from schemas.settings import Spelled, check_endpoint, only_its_own

Kind = Literal[
    "r3", "judge", "expected", "pairwise", "tournament", "rubric", "reward-model", "weighted", "python", "http"
]
JUDGES = ("judge", "expected", "pairwise", "tournament", "rubric")
HELPSTEER2 = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.4}
HELPFUL = Rubric(
    criteria="Does the response do what the instruction asks, correctly and completely, at the length that it needs?",
    score_descriptions=(
        "It does not do what was asked, or nothing in it can be relied on.",
        "It does part of what was asked, with errors that a reader would stumble over.",
        "It does most of what was asked; something is missing, wrong or beside the point.",
        "It does what was asked, with a small thing missing or said at too great a length.",
        "It does all that was asked, correctly, and says nothing that could be left out.",
    ),
)
SIMPLE = ("r3", *JUDGES)
SPELLINGS = f"{', '.join(SIMPLE)}, helpsteer2, rm:MODEL, python:FILE.py:FUNCTION or http://HOST:PORT/PATH"
FIELDS_OF: Mapping[str, tuple[str, ...]] = {
    "form": ("r3",),
    "role": JUDGES,
    "evaluations": ("judge", "rubric"),
    "attempts": ("judge", "rubric", "pairwise", "tournament"),
    "max_tokens": ("judge", "rubric", "pairwise", "tournament"),
    "temperature": ("judge", "rubric"),
    "rubric": ("rubric", "pairwise", "tournament"),
    "opponents": ("pairwise",),
    "model": ("reward-model",),
    "revision": ("reward-model",),
    "backend": ("reward-model",),
    "trust_remote_code": ("reward-model",),
    "max_length": ("reward-model",),
    "weights": ("reward-model", "weighted"),
    "function": ("python",),
    "url": ("http",),
    "api_key_env": ("http",),
}
NEEDED = {"reward-model": "model", "weighted": "weights", "python": "function", "http": "url"}


class ScorerSettings(Spelled):
    """One scorer. May be written as r3, judge, expected, pairwise, tournament, rubric, helpsteer2 (weights over columns
    of that name), rm:MODEL, python:FILE.py:FUNCTION or http://HOST:PORT/PATH; with settings beside it:
    {spec: judge, evaluations: 3}.
    """

    kind: Kind
    name: str = Field(
        "", description="what its column is called; default: the kind, or the function's name", pattern=r"^[\w.-]*$"
    )
    form: Literal["auto", "open-ended", "constrained"] = Field(
        "auto", description="r3: relevance to the prompt, or likeness to the reference; auto: where there is one"
    )
    role: str = Field("judge", description="judges: the role in `engines` that judges", min_length=1)
    evaluations: int = Field(10, ge=1, le=1000, description="judge, rubric: judgements of an answer, averaged")
    attempts: int = Field(3, ge=1, le=100, description="for a judgement that cannot be read; its fault is named")
    max_tokens: int = Field(512, ge=1, le=1 << 20, description="of a judgement with reasons")
    temperature: float = Field(1.0, ge=0, description="judge, rubric: how far the evaluations of an answer may differ")
    rubric: Rubric | None = Field(
        None, description="rubric: {criteria, score_descriptions: five texts}; pairwise, tournament: compare by it"
    )
    opponents: int = Field(
        0, ge=0, description="pairwise: the next answers each is compared with, so it meets twice as many; 0: all"
    )
    model: str = Field("", description="reward-model: a Hub id or a folder, a sequence classifier")
    revision: str | None = Field(None, description="reward-model: the Hub revision")
    backend: Literal["transformers", "vllm"] = Field("transformers", description="reward-model: what runs it")
    trust_remote_code: bool = Field(False, description="reward-model: run the model's own code, as ArmoRM needs")
    max_length: int = Field(4096, ge=8, description="reward-model: tokens; of longer ones the beginning is left out")
    weights: dict[str, float] | None = Field(
        None, description="weighted: score or column -> weight; reward-model with several outputs: label -> weight"
    )
    function: str = Field("", description="python: FILE.py:FUNCTION, called with prompt, answers and reference")
    url: str = Field("", description="http: POST {pools: [{prompt, system, reference, answers}]} -> {scores: [[...]]}")
    api_key_env: str = Field("", description="http: the environment variable that holds its key, if it wants one")

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        return parse_scorer(spec)

    @field_validator("rubric", mode="before")
    @classmethod
    def read_rubric(cls, given: Any) -> Any:
        try:
            return given if given is None or isinstance(given, Rubric) else Rubric.of(given)
        except Drop as drop:
            raise ValueError(drop.detail) from drop

    @field_validator("url")
    @classmethod
    def no_secrets(cls, url: str) -> str:
        return check_endpoint(url)

    @model_validator(mode="after")
    def sound(self) -> "ScorerSettings":
        if self.kind in NEEDED and not getattr(self, NEEDED[self.kind]):
            raise ValueError(f"{self.kind} needs {NEEDED[self.kind]}")
        only_its_own(self, self.kind, FIELDS_OF)
        if self.kind in ("pairwise", "tournament") and not self.rubric:
            for name in ("attempts", "max_tokens"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect without a rubric: {self.kind} is judged by one letter then")
        if self.kind == "python" and not re.fullmatch(r".+\.py:\w+", self.function):
            raise ValueError(f"{self.function!r} names no function; expected FILE.py:FUNCTION")
        return self

    @property
    def label(self) -> str:
        return self.name or self.function.rpartition(":")[2] or self.kind.replace("-", "_")

    @property
    def judges(self) -> bool:
        return self.kind in JUDGES


def parse_scorer(spec: str) -> dict[str, Any]:
    """Read a scorer's short form; raises ValueError that says what was expected."""
    kind, _, rest = spec.partition(":")
    if spec in SIMPLE:
        return {"kind": spec}
    if spec == "helpsteer2":
        return {"kind": "weighted", "name": "helpsteer2", "weights": HELPSTEER2}
    if kind in ("rm", "reward-model") and rest:
        return {"kind": "reward-model", "model": rest}
    if kind == "python" and rest:
        return {"kind": "python", "function": rest}
    if kind in ("http", "https"):
        return {"kind": "http", "url": spec}
    raise ValueError(f"no scorer is called {spec!r}; expected {SPELLINGS}")
