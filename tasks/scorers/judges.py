"""What judges share: scorers that ask a model. A pool in, the same pool with one more score out.

A score is missing (None) where the judge could not be asked, or gave no answer that could be read.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BeforeValidator, Field

from synthmill.schemas.calls import Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.multifaceted import Rubric
from synthmill.schemas.pools import JudgedPool, Score, ScoredPool
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext

Attempts = Annotated[int, Field(ge=1, le=100, description="for a judgement that cannot be read; its fault is named")]
MaxTokens = Annotated[int, Field(ge=1, le=1 << 20, description="of a judgement with reasons")]


def read_rubric(value: Any) -> Any:
    try:
        return value if value is None or isinstance(value, Rubric) else Rubric.of(value)
    except Drop as drop:
        raise ValueError(drop.detail) from drop


RubricOf = Annotated[
    Rubric | None,
    BeforeValidator(read_rubric),
    Field(description="what they judge by: {criteria, score_descriptions: five texts}"),
]
"""A rubric in settings: as `Rubric.of` reads it."""


class JudgeSettings(ScorerSettings):
    """The settings that all judges share."""

    role: str = Field("judge", description="the role in `engines` that judges", min_length=1)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def shared_fields(self, context: ScoringContext) -> dict[str, Any]:
        """The fields of every judge's stage."""
        return {"label": self.label, "role": self.role, "most_answers": context.most_answers}


class Judge(Recipe[ScoredPool, JudgedPool]):
    """A scorer that asks a model. label: the score's name; role: who judges."""

    prompts: ClassVar[dict[str, tuple[str, ...]]] = {}

    label: str = "judge"
    role: str = "judge"
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    most_answers: int = Field(1, ge=1, exclude=True, description="of a pool, for plans")

    def needs_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def request(self, row: ScoredPool, **variables: Any) -> Request:
        messages = load(self.prompt()).render(row=row, **variables)
        return Request(role=self.role, messages=messages, sampling=self.sampling, optional=True)

    def prompt(self) -> str:
        """The one prompt that these settings use."""
        [prompt] = self.prompts
        return prompt

    def with_score(self, row: ScoredPool, values: Sequence[float | None], judgements: Judgements) -> JudgedPool:
        """The pool with these scores. A pool without any stays: another score may be the one that counts."""
        settings = {"scorer": self.name, "version": self.version, **self.model_dump(mode="json", exclude={"label"})}
        score = Score(scorer=self.label, settings=orjson.dumps(settings).decode(), values=tuple(values))
        return JudgedPool(**{**row.__dict__, "scores": (*row.scores, score), **judgements.columns()})
