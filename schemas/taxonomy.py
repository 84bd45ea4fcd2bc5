"""A taxonomy of user values: dimensions, their subdimensions, and seed values under each.

Source: docs/papers.md#multifaceted.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from schemas.calls import Frozen
from schemas.texts import normalised, one_line

LONGEST_VALUE = 120  # characters: a seed value is a keyword or a short phrase


def named(given: Any, inner: str) -> Any:
    """`{NAME: x}` as `[{name: NAME, inner: x}]`, so that the order in the file is the order of the list."""
    if not isinstance(given, Mapping):
        return given
    return [
        {"name": name, **x} if isinstance(x, Mapping) and inner in x else {"name": name, inner: x}
        for name, x in given.items()
    ]


def word(given: str) -> str:
    """A name or a value, on one line. Raises ValueError for what no answer could repeat."""
    text = one_line(given)
    if not any(map(str.isalnum, text)) or len(text) > LONGEST_VALUE:
        raise ValueError(f"{given!r:.60}: expected 1 to {LONGEST_VALUE} characters, letters or digits among them")
    return text


Word = Annotated[str, AfterValidator(word)]


class Subdimension(Frozen):
    """A kind of value, and seed values: short phrases."""

    name: Word
    values: tuple[Word, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def listed(cls, given: Any) -> Any:
        """A mapping whose keys are the values is a list, too (the form of a nested tree)."""
        return list(given) if isinstance(given, Mapping) else given


class Dimension(Frozen):
    """One of the sides from which an answer is valued; a preference set has one value of each dimension."""

    name: Word
    description: str = ""
    subdimensions: tuple[Subdimension, ...] = Field(min_length=1)

    @field_validator("subdimensions", mode="before")
    @classmethod
    def listed(cls, given: Any) -> Any:
        return named(given, "values")

    @model_validator(mode="after")
    def each_once(self) -> "Dimension":
        once([one.name for one in self.subdimensions], f"{self.name}: subdimension")
        once([value for one in self.subdimensions for value in one.values], f"{self.name}: value")
        for one in self.subdimensions:
            for value in one.values:
                if normalised(value) in (normalised(one.name), normalised(self.name)):
                    raise ValueError(f"{self.name}: the value {value!r} only names its subdimension or dimension")
        return self

    @cached_property
    def seeds(self) -> dict[str, tuple[str, str]]:
        """Every seed value by its normalised form: (subdimension, value)."""
        return {normalised(value): (one.name, value) for one in self.subdimensions for value in one.values}


class Taxonomy(Frozen):
    """Dimensions in canonical order. language: what the model writes in; empty: it is left to the model."""

    name: str = "taxonomy"
    language: str = ""
    dimensions: tuple[Dimension, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def whole(cls, given: Any) -> Any:
        """A mapping without `dimensions` is the tree itself, perhaps with a name and a language at its top."""
        if not isinstance(given, Mapping) or "dimensions" in given:
            return given
        said = {name: text for name, text in given.items() if name in ("name", "language") and isinstance(text, str)}
        return {**said, "dimensions": {name: tree for name, tree in given.items() if name not in said}}

    @field_validator("dimensions", mode="before")
    @classmethod
    def listed(cls, given: Any) -> Any:
        return named(given, "subdimensions")

    @model_validator(mode="after")
    def each_once(self) -> "Taxonomy":
        once([one.name for one in self.dimensions], "dimension")
        return self

    @property
    def values(self) -> int:
        return sum(len(one.seeds) for one in self.dimensions)


def once(names: list[str], what: str) -> None:
    """Raises ValueError when two names are the same but for case and white space."""
    seen: set[str] = set()
    for name in map(normalised, names):
        if name in seen:
            raise ValueError(f"{what} {name!r} is there twice; name each once")
        seen.add(name)
