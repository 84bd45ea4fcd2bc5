"""What methods share that look for prompts at which a model fails: its answers, their scores, a limit."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.settings import AnswerSettings, EngineSettings
from synthmill.storage.published.by_columns import TableForm, table_of
from synthmill.storage.published.configurations import Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.generators.answers import PoolAnswers
from synthmill.tasks.generators.failures import PASSING, FailedPrompts
from synthmill.tasks.running.job import Stage
from synthmill.tasks.scorers.direct import TenPointSettings
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext

TARGET = "target"
Roles = Mapping[str, EngineSettings]


class TargetAnswerSettings(AnswerSettings):
    """The answers of the model under test."""

    count: int = Field(1, ge=1, le=4096, description="answers to a prompt; their mean score decides")
    min_answers: int = 1


class FailingSettings(PublishSettings):
    """Who is tested, and when an answer counts as a failure. writers: roles that neither answer nor judge."""

    writers: ClassVar[tuple[str, ...]] = ("teacher",)

    answers: TargetAnswerSettings = TargetAnswerSettings()
    scorers: SerializeAsAny[tuple[ScorerSettings, ...]] = Field(
        (TenPointSettings(evaluations=1),), min_length=1, description="the last one's score decides"
    )
    passing: float = Field(PASSING, description="a prompt whose answers score less on average is a failure")

    @field_validator("scorers", mode="before")
    @classmethod
    def one_or_more(cls, values: Any) -> Any:
        return (values,) if isinstance(values, str | Mapping) else values

    @model_validator(mode="after")
    def reads_no_columns(self) -> "FailingSettings":
        if needed := sorted({name for scorer in self.scorers for name in scorer.needs_by_row}):
            raise ValueError(f"a scorer reads {', '.join(needed)} of rows, which new prompts lack; choose another")
        return self

    @model_validator(mode="after")
    def knows_its_roles(self) -> "FailingSettings":
        roles = {"teacher", *self.writers, *self.judging_roles}
        if unknown := sorted(self.engines.keys() - roles):
            raise ValueError(f"no role is called {', '.join(unknown)}; expected {', '.join(sorted(roles))}")
        return self

    @property
    def judging_roles(self) -> tuple[str, ...]:
        """The roles that answer and that judge."""
        return (TARGET, *(role for scorer in self.scorers for role in scorer.roles))

    def failing_stages(self) -> list[Stage]:
        """Prompts -> pools of the target's answers -> their scores -> which prompts failed."""
        answers = PoolAnswers(
            sampling=self.sampling(self.answers),
            policies=(TARGET,),
            count=self.answers.count,
            min_answers=self.answers.min_answers,
        )
        context = ScoringContext(self.embedder, self.seed, self.answers.count)
        scorers = [scorer.stage(context) for scorer in self.scorers]
        return [answers, *scorers, FailedPrompts(score=self.scorers[-1].label, passing=self.passing)]


def prompt_table(rows: RowStream, about: str) -> Table:
    """Prompts as a configuration of a dataset."""
    return table_of(rows, form=TableForm(kind="prompts", about=about))
