"""Settings of `multifaceted` and `judge`. Defaults are the paper's where it has any (docs/papers.md#multifaceted)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.settings import (
    ENGINES,
    EngineSettings,
    RunSettings,
    SourceSettings,
    StageSampling,
    SystemMessageSampling,
)


class FilterSettings(Frozen):
    """Which instructions are used."""

    languages: tuple[str, ...] = Field(("en",), description="ISO 639 codes; empty: any language")
    min_chars: int = Field(10, ge=0)
    max_chars: int = Field(8000, ge=1)
    keep_personas: bool = Field(
        False, description="keep instructions with a system or persona message (it is replaced)"
    )

    @field_validator("languages", mode="before")
    @classmethod
    def one_or_more(cls, languages: Any) -> Any:
        return (languages,) if isinstance(languages, str | Mapping) else languages

    @field_validator("languages")
    @classmethod
    def lower_case(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(language.strip().lower() for language in languages)

    @model_validator(mode="after")
    def check_lengths(self) -> "FilterSettings":
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars is {self.min_chars}, above max_chars, {self.max_chars}")
        return self


class SetSettings(StageSampling):
    """Preference sets."""

    count: int = Field(3, ge=1, description="sets, and so system messages and responses, per instruction")
    sampler: Literal["balanced", "model"] = Field(
        "balanced", description="who chooses values: dealt evenly from the taxonomy, or the model, as in the paper"
    )


class BenchSettings(StageSampling):
    """The bench, and how its rubrics are drawn."""

    share: float = Field(0.05, ge=0, lt=1, description="of the instructions, kept from training; 0: no bench")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="of each subdimension's values, for the bench only; at least one"
    )
    threshold: float = Field(0.9, ge=0, le=1, description="cosine from which a bench preference counts as seen")


class MultifacetedSettings(PublishSettings):
    """One run of `multifaceted`: instructions -> preference sets -> system messages -> responses -> splits, bench."""

    source: SourceSettings
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    filter: FilterSettings = FilterSettings()
    taxonomy: LocalPath = Field(
        "", description="a file of dimensions, subdimensions and values; default: synthmill's own"
    )
    preference_sets: SetSettings = SetSettings()
    system_messages: SystemMessageSampling = SystemMessageSampling()
    responses: StageSampling = StageSampling()
    bench: BenchSettings = BenchSettings()
    attempts: int = Field(
        3, ge=1, le=100, description="for an answer that cannot be used; its fault is named in the next try"
    )


class JudgeSettings(RunSettings):
    """One run of `judge`: bench rows -> a model's answers -> judgements -> scores."""

    source: SourceSettings = Field(description="bench rows: prompt, system, reference_answer, rubrics, preference_set")
    engines: dict[Literal["student", "judge", "teacher"], EngineSettings] = ENGINES
    answers: StageSampling = StageSampling()
    judging: StageSampling = StageSampling()
    runs: int = Field(3, ge=1, description="each draws its own answers and judgements")
    attempts: int = Field(6, ge=1, le=100, description="for a judgement without a score from 1 to 5")
