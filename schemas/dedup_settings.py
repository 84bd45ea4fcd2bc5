"""Settings of duplicates and contamination, which every flow that publishes has (docs/papers.md#dedup)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.settings import RunSettings, SourceSettings

Layer = Literal["exact", "words", "meaning"]
LAYERS: tuple[Layer, ...] = ("exact", "words", "meaning")
PUBLISHED = "published"


def listed(value: Any) -> Any:
    """One of them is a list of one."""
    return (value,) if isinstance(value, str | Mapping) else value


class DedupSettings(Frozen):
    """Which rows count as the same, and who is compared with whom. Rows are marked, and left out of the dataset."""

    layers: tuple[Layer, ...] = Field(LAYERS, description="exact, words, meaning; empty: no duplicates are looked for")
    threshold: float = Field(0.9, gt=0, le=1, description="meaning: the cosine from which two texts count as one")
    jaccard: float = Field(0.7, gt=0, le=1, description="words: the share of word 3-grams from which they do")
    recall: float = Field(0.995, gt=0, le=1, description="meaning: the share of pairs to find; 1 is an exact search")
    sample: int = Field(2000, ge=100, description="meaning: rows compared with all others, to know the recall")
    precision: Literal["float32", "float16"] = Field("float32", description="of the vectors on the disk")
    against: tuple[Literal["published"] | SourceSettings, ...] = Field(
        (),
        description="files or Hub datasets of earlier rows, or `published`: what this flow made in this store before",
    )

    _listed = field_validator("layers", "against", mode="before")(listed)


class DecontaminateSettings(Frozen):
    """Benchmarks whose prompts must not be trained on."""

    benchmarks: tuple[SourceSettings, ...] = Field((), description="files or Hub datasets of prompts")
    found: Literal["drop", "mark"] = Field("drop", description="leave such rows out, or only mark them")
    layers: tuple[Literal["words", "meaning"], ...] = Field(("words", "meaning"), min_length=1)
    threshold: float = Field(
        0.9, gt=0, le=1, description="meaning: the cosine from which a row counts as a benchmark's"
    )

    _listed = field_validator("benchmarks", "layers", mode="before")(listed)


class PublishSettings(RunSettings):
    """What every flow that publishes has besides."""

    dedup: DedupSettings = DedupSettings()
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    license: str = Field("", description="of the dataset; default: the most restrictive one of its sources")
