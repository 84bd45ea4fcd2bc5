"""Settings of `retpo`. Defaults are the paper's where it has any (docs/papers.md#retpo)."""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.dedup_settings import DedupSettings, PublishSettings
from synthmill.schemas.retpo import Form, KeywordMethod, Method
from synthmill.schemas.settings import ENGINES, EngineSettings, StageSampling
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.tasks.retrieval.bm25_ranks import Bm25Settings
from synthmill.tasks.retrieval.keyword_queries import INSTRUCTIONS
from synthmill.tasks.retrieval.retrievers import RetrieverSettings

TAKEN = ("answers", "pareto")  # sft_answers, dpo_pareto


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
    keywords: tuple[KeywordMethod, ...] = Field(
        (),
        description="further queries, of keywords from several instructions: ensemble joins them to one query, "
        "fusion searches for each and fuses the lists; one call per instruction and turn",
    )
    instructions: tuple[str, ...] = Field(INSTRUCTIONS, min_length=1, description="of `keywords`: paraphrases of one")

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.fewest > self.most:
            raise ValueError(f"fewest is {self.fewest}, above most, {self.most}")
        if len({*self.methods, *self.pool, *self.keywords}) < sum(map(len, (self.methods, self.pool, self.keywords))):
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
    retrievers: SerializeAsAny[tuple[RetrieverSettings, ...]] = Field(
        (Bm25Settings(),), description="each gives its own ranks, picks and pairs"
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
    def one_or_more(cls, values: Any) -> Any:
        return (values,) if isinstance(values, str | Mapping) else values

    @model_validator(mode="after")
    def different_names(self) -> Self:
        labels = [retriever.label.lower() for retriever in self.retrievers]
        if not labels:
            raise ValueError("there is no retriever; expected one at least, for instance bm25")
        if taken := [label for label in labels if label in TAKEN]:
            raise ValueError(f"no retriever may be called {taken[0]}: a configuration has that name")
        if doubled := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"two retrievers are called {min(doubled)}; give one of them another name")
        return self
