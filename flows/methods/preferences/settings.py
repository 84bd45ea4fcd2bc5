"""Settings of `preferences` and `self-rip`. Defaults are the papers' where they have any (docs/papers.md#rip)."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from synthmill.schemas.calls import MaxTokens, Temperature, TopP
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.settings import (
    EMBEDDED,
    AnswerSettings,
    EngineSettings,
    QuestionSettings,
    SourceSettings,
    StageSampling,
)
from synthmill.storage.plain_files.pool_rows import RUBRIC
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.cuts.rules.sweet_spot import SweetSpot
from synthmill.tasks.scorers.r3 import R3Settings
from synthmill.tasks.scorers.scoring import ScorerSettings

Flag = Literal["constant", "near_constant", "addresses_judge", "copies_prompt"]


KEYWORDS = (
    *["image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"],
    *["video", "audio", "music", "flowchart", "diagram"],
    "go to",
)
"""Self-Instruct's."""


class PoolAnswerSettings(AnswerSettings):
    """N answers per prompt and policy; 64 is RIP's for an 8B model (docs/papers.md#rip)."""

    count: int = Field(64, ge=1, le=4096, description="answers per prompt and policy; each is a call, and is scored")


class PoolSettings(PublishSettings):
    """From prompts on: answers, scores, pairs. asks: roles that are neither policies nor judges."""

    asks: ClassVar[tuple[str, ...]] = ()

    engines: dict[str, EngineSettings] = Field(
        default={"teacher": EngineSettings.model_validate(EMBEDDED)},
        description="role -> engine: the policies, the judges; a role that is not named is played by the teacher",
    )
    policies: tuple[str, ...] = Field(
        ("student",), description="the roles that answer; empty: the source's rows bring `answers`"
    )
    answers: PoolAnswerSettings = PoolAnswerSettings()
    scorers: SerializeAsAny[tuple[ScorerSettings, ...]] = Field(
        (R3Settings(),), description="each adds a score; several live side by side"
    )
    reward: str = Field("", description="the score that pairs are cut by; default: the last scorer's")
    length_control: bool = Field(False, description="take from the reward what length earns within a pool")
    leave_out: tuple[Flag, ...] = Field(
        (),
        description="answers with these flags are in no pair: constant, near_constant, addresses_judge, copies_prompt",
    )
    cuts: SerializeAsAny[tuple[CutSettings, ...]] = Field(
        (Rip(), SweetSpot()), description="each rule makes its own pairs"
    )

    @field_validator("policies", "scorers", "cuts", "leave_out", mode="before")
    @classmethod
    def one_or_more(cls, values: Any) -> Any:
        return (values,) if isinstance(values, str | Mapping) else values

    @model_validator(mode="before")
    @classmethod
    def score_by_rewards(cls, settings: Any) -> Any:
        """Rows that bring answers bring rewards, too, unless scorers are named."""
        if isinstance(settings, Mapping) and "scorers" not in settings and settings.get("policies") in ([], ()):
            return {**settings, "scorers": ()}
        return settings

    @model_validator(mode="after")
    def check(self) -> Self:
        labels = [label for scorer in self.scorers for label in scorer.labels]
        for what, names in (
            ("policies", self.policies),
            ("scorers", labels),
            ("cuts", [cut.label for cut in self.cuts]),
        ):
            if doubled := {name for name in names if list(names).count(name) > 1}:
                raise ValueError(f"two {what} are called {min(doubled)}; give one of them another name")
        if bad := [role for role in self.policies if not re.fullmatch(r"[\w.-]+", role)]:
            raise ValueError(f"{bad[0]!r} is no name of a role; expected letters, digits, . _ -")
        if not self.cuts:
            raise ValueError("there is no cut; expected one at least, for instance rip")
        roles = {"teacher", *self.asks, *self.policies, *self.judges}
        if unknown := sorted(self.engines.keys() - roles):
            raise ValueError(f"no role is called {', '.join(unknown)}; expected {', '.join(sorted(roles))}")
        needs = {name for scorer in self.scorers for name in scorer.needs_by_row}
        if RUBRIC in needs:
            raise ValueError(
                "rubrics of rows are read by `synthmill score` and in pipelines; leave their scorer out here"
            )
        if self.policies and needs:
            raise ValueError("by-row reads columns of rows that bring answers (policies: []), or of a pipeline's")
        if self.policies and not self.scorers:
            raise ValueError("there is no scorer; expected one at least, for instance r3")
        if not self.policies and "reward" in labels:
            raise ValueError("no scorer may be called reward where rows bring rewards (policies: []); give it a name")
        before: set[str] = set()
        for scorer in self.scorers if self.policies else ():
            if missing := sorted({*scorer.reads} - before):
                raise ValueError(f"{scorer.label} weighs {', '.join(missing)}, which no scorer before it gives")
            before |= {*scorer.labels}
        if self.policies and self.reward and self.reward not in labels:
            choices = ", ".join(labels)
            raise ValueError(
                f"the reward is {self.reward}, but no scorer is called so (there are {choices}); set reward"
            )
        return self

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles that scorers ask."""
        return tuple(role for scorer in self.scorers for role in scorer.roles)

    @property
    def chosen_reward(self) -> str:
        """The score that pairs are cut by."""
        return self.reward or (self.scorers[-1].label if self.scorers else "reward")


class PreferencesSettings(PoolSettings):
    """One run of `preferences`: prompts -> N answers each -> scores -> pairs by several rules -> dataset."""

    source: QuestionSettings


class NewPromptSettings(StageSampling):
    """How new prompts are drawn; 8 samples, temperature 0.8, top_p 0.95 and 0.7 are the paper's."""

    temperature: Temperature = 0.8
    top_p: TopP = 0.95
    max_tokens: MaxTokens = 1024
    count: int = Field(20_000, ge=1, description="prompts to ask for; each is a call")
    shots: int = Field(8, ge=1, le=64, description="kept prompts that each new one is drawn from")
    attempts: int = Field(3, ge=1, le=100, description="for a prompt without its marks")
    overlap: float = Field(0.7, gt=0, le=1, description="ROUGE-L from which a new prompt is too like one that is there")
    fewest_words: int = Field(3, ge=1)
    most_words: int = Field(150, ge=1)
    keywords: tuple[str, ...] = Field(
        KEYWORDS, description="prompts with one of these words are dropped: a language model cannot do them"
    )
    ascii_start: bool = Field(True, description="drop prompts that begin with punctuation or a letter beyond ASCII")


class SelfRipSettings(PoolSettings):
    """One run of `self-rip`: prompts that were kept -> new prompts like them -> answers -> scores -> pairs within the
    limits that were fitted before. The role `author` writes the prompts.
    """

    previewed: ClassVar = "prompts.count"

    asks: ClassVar = ("author",)

    source: SourceSettings = Field(description="the kept prompts: what `pairs --rule rip` or `preferences` wrote")
    thresholds: LocalPath = Field(
        min_length=1, description="the limits that kept them: what --save-thresholds or `preferences` wrote"
    )
    prompts: NewPromptSettings = NewPromptSettings()
    against: tuple[SourceSettings, ...] = Field((), description="more prompts that new ones must not be like")
    cuts: SerializeAsAny[tuple[CutSettings, ...]] = Field((), description="more rules, beside rip with the thresholds")

    @field_validator("against", mode="before")
    @classmethod
    def sources(cls, values: Any) -> Any:
        return (values,) if isinstance(values, str | Mapping) else values

    @model_validator(mode="before")
    @classmethod
    def with_rip(cls, settings: Any) -> Any:
        """The rule that gives the method its name comes first."""
        if not isinstance(settings, Mapping) or not isinstance(settings.get("thresholds"), str):
            return settings
        cuts = settings.get("cuts") or ()
        if not isinstance(cuts, str | Mapping | list | tuple):
            return settings
        rules = [cuts] if isinstance(cuts, str | Mapping) else list(cuts)
        thresholds = settings["thresholds"]
        if not any(isinstance(rule, Mapping) and rule.get("thresholds") == thresholds for rule in rules):
            rules.insert(0, {"rule": "rip", "thresholds": thresholds})
        return {**settings, "cuts": rules}

    @model_validator(mode="after")
    def check_prompts(self) -> Self:
        if not self.policies:
            raise ValueError("there are no policies; new prompts have no answers yet")
        if self.prompts.fewest_words > self.prompts.most_words:
            raise ValueError("prompts.fewest_words is above prompts.most_words")
        return self
