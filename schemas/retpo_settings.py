"""Settings of `retpo` and `rank`. Defaults are the paper's where it has any (docs/papers.md#retpo)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from schemas.calls import Frozen
from schemas.dedup_settings import DedupSettings, PublishSettings
from schemas.retpo import Form, Method
from schemas.settings import (
    ENGINES,
    EngineSettings,
    FileSettings,
    Spelled,
    StageSampling,
    check_endpoint,
    only_its_own,
)

BM25_PRESETS = {"topiocqa": {"k1": 0.9, "b": 0.4}, "qrecc": {"k1": 0.82, "b": 0.68}}
"""The paper's values by dataset, written bm25:topiocqa and bm25:qrecc."""


WORDS, MODEL = ("bm25", "fusion"), ("dense", "fusion")
FIELDS_OF = {
    **dict.fromkeys(("k1", "b", "stopwords", "stemmer"), WORDS),
    **dict.fromkeys(("model", "query_prompt", "passage_prompt", "index"), MODEL),
    "rrf_k": ("fusion",),
    **dict.fromkeys(("path", "ties"), ("run",)),
    **dict.fromkeys(("url", "api_key_env"), ("http",)),
}
"""Whom a retriever's settings are for."""
NEEDED = {"run": "path", "http": "url"}
TAKEN = ("answers", "pareto")  # sft_answers, dpo_pareto


class TurnSettings(FileSettings):
    """Conversations: MTRAG, TopiOCQA, QReCC, BEIR queries, or rows with history, question and gold."""

    qrels: str = Field("", description="relevant passages, where the rows do not name them: TREC, or TSV with a header")


class CorpusSettings(FileSettings):
    """Passages: a JSONL, JSON, CSV, TSV or Parquet file with _id (or id), optional title, and text (or contents)."""


class RetrieverSettings(Spelled):
    """What looks for passages. May be written as one string:

    bm25, bm25:topiocqa, bm25:qrecc (the paper's k1 and b), dense, dense:MODEL (minilm, a Hub id or a folder), fusion
    (of bm25 and dense), run:FILE (a TREC run), or http://HOST:PORT/PATH (a search endpoint). With more settings beside
    it: {spec: bm25, k1: 0.9}.
    """

    kind: Literal["bm25", "dense", "fusion", "run", "http"] = Field(
        description="or write it as one string, alone or in spec"
    )
    name: str = Field("", pattern=r"^(\w[\w-]*)?$", description="in columns and configurations; default: the kind")
    k1: float = Field(1.2, ge=0, le=1000, description="bm25, fusion: how fast repeated words stop counting")
    b: float = Field(0.75, ge=0, le=1, description="bm25, fusion: how much long passages lose")
    stopwords: str = Field("en", description="bm25, fusion: a language's list (en, de, fr, ...), or none")
    stemmer: str = Field("english", description="bm25, fusion: a Snowball stemmer, or none")
    model: str = Field("minilm", description="dense, fusion: minilm (embedded), a Hub id or a folder")
    query_prompt: str = Field("", description="dense, fusion: what the model wants before a query")
    passage_prompt: str = Field("", description="dense, fusion: what the model wants before a passage")
    index: Literal["auto", "flat", "ivf", "hnsw"] = Field(
        "auto", description="dense, fusion: exact (flat) up to a million passages, ivf above"
    )
    rrf_k: int = Field(60, ge=1, description="fusion: 1 / (rrf_k + rank), summed over both")
    path: str = Field("", description="run: the file")
    ties: Literal["rank", "trec_eval"] = Field(
        "rank",
        description="run: equal scores in the order of its rank column; or as trec_eval has them: scores in single "
        "precision, then ids from z to a, whatever the ranks",
    )
    url: str = Field("", description="http: the endpoint")
    api_key_env: str = Field("", description="http: the environment variable that holds its key, if it wants one")

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        return parse_retriever(spec)

    @field_validator("url")
    @classmethod
    def no_secrets(cls, url: str) -> str:
        return check_endpoint(url)

    @model_validator(mode="after")
    def sound(self) -> "RetrieverSettings":
        if self.kind in NEEDED and not getattr(self, NEEDED[self.kind]):
            raise ValueError(f"{self.kind} needs {NEEDED[self.kind]}")
        only_its_own(self, self.kind, FIELDS_OF)
        return self

    @property
    def label(self) -> str:
        return self.name or self.kind

    @property
    def parts(self) -> tuple[str, ...]:
        """The retrievers with an index that it is made of."""
        return ("bm25", "dense") if self.kind == "fusion" else (self.kind,) if self.kind in ("bm25", "dense") else ()


def parse_retriever(spec: str) -> dict[str, Any]:
    """Read a retriever's short form; raises ValueError that says what was expected."""
    kind, _, rest = spec.partition(":")
    if spec in ("bm25", "dense", "fusion"):
        return {"kind": spec}
    if kind == "bm25" and rest in BM25_PRESETS:
        return {"kind": "bm25", **BM25_PRESETS[rest]}
    if kind == "dense" and rest:
        return {"kind": "dense", "model": rest}
    if kind == "run" and rest:
        return {"kind": "run", "path": rest}
    if kind in ("http", "https"):
        return {"kind": "http", "url": spec}
    raise ValueError(
        f"no retriever is called {spec!r}; expected bm25, bm25:{', bm25:'.join(BM25_PRESETS)}, dense, dense:MODEL, "
        "fusion, run:FILE or http://HOST:PORT/PATH"
    )


class CandidateSettings(StageSampling):
    """Candidate queries."""

    methods: tuple[Method, ...] = Field(
        get_args(Method), description="of rewrite, plan, expand; each is one call per turn"
    )
    fewest: int = Field(5, ge=1, description="queries asked for in a call, at least")
    most: int = Field(10, ge=1, le=50, description="and at most; more are left out")
    pool: tuple[Form, ...] = Field(
        ("question", "history", "human_rewrite"),
        description="what joins them: question, user_turns, history, human_rewrite",
    )
    human_base: bool = Field(True, description="expand the human rewrite, where there is one, not the model's own")
    attempts: int = Field(3, ge=1, le=100, description="for an answer with too few queries; its fault is named")

    @model_validator(mode="after")
    def some(self) -> "CandidateSettings":
        if self.fewest > self.most:
            raise ValueError(f"fewest is {self.fewest}, above most, {self.most}")
        if len({*self.methods, *self.pool}) < len(self.methods) + len(self.pool):
            raise ValueError("a method or a form is there twice")
        if not self.methods and not self.pool:
            raise ValueError("there is neither a method nor a form in the pool")
        return self


class PickSettings(Frozen):
    """What SFT rows are made of."""

    top: int = Field(5, ge=1, description="queries per turn and retriever")
    threshold: int = Field(
        30, ge=1, description="the gold passage has at most this rank; if no query has it, the best one"
    )
    never_retrieved: Literal["keep", "drop"] = Field(
        "keep",
        description="turns whose gold passage no query finds: keep their first query, as the paper, or drop them",
    )


class PairSettings(Frozen):
    """What preference pairs are made of."""

    per_turn: int = Field(8, ge=1, description="at most, per retriever")
    threshold: int = Field(30, ge=1, description="the preferred query has at most this rank")


class RetpoSettings(PublishSettings):
    """One run of `retpo`: turns and passages -> candidate queries -> ranks -> picks, pairs, hard negatives."""

    source: TurnSettings
    corpus: CorpusSettings
    dedup: DedupSettings = DedupSettings(layers=("exact",))  # turns of one conversation are alike, and no duplicates
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    retrievers: tuple[RetrieverSettings, ...] = Field(
        (RetrieverSettings(kind="bm25"),), description="each gives its own ranks, picks and pairs"
    )
    candidates: CandidateSettings = CandidateSettings()
    depth: int = Field(100, ge=1, le=10_000, description="ranks are exact down to here; what is not found is depth + 1")
    ignore_identical_ids: bool | None = Field(
        None,
        description="leave a passage with the turn's own id out of its ranks, as BEIR's evaluation does; default: for "
        "BEIR files (a corpus with _id, judgements with query-id, corpus-id, score)",
    )
    picks: PickSettings = PickSettings()
    pairs: PairSettings = PairSettings()
    negatives: int = Field(4, ge=0, description="hard negatives per turn and retriever; 0: none")
    first_turns: bool = Field(
        False, description="rewrite first turns, too; the paper does not, nothing comes before them"
    )
    instruction: str = Field(
        "Rewrite the user's last message as a search query that can be understood without the conversation. "
        "Reply with the query only.",
        description="the system message of training rows; empty: none",
    )

    @field_validator("retrievers", mode="before")
    @classmethod
    def one_or_more(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str | Mapping) else given

    @model_validator(mode="after")
    def different_names(self) -> "RetpoSettings":
        labels = [retriever.label.lower() for retriever in self.retrievers]
        if not labels:
            raise ValueError("there is no retriever; expected one at least, for instance bm25")
        if taken := [label for label in labels if label in TAKEN]:
            raise ValueError(f"no retriever may be called {taken[0]}: a configuration has that name")
        if doubled := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"two retrievers are called {min(doubled)}; give one of them another name")
        return self
