"""A taxonomy of user values: dimensions, their subdimensions, and seed values under each.

Source: docs/papers.md#multifaceted.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.texts import normalised, one_line

LONGEST_VALUE = 120  # characters: a seed value is a keyword or a short phrase


def as_named_list(tree: Any, inner: str) -> Any:
    """`{NAME: x}` as `[{name: NAME, inner: x}]`, so that the order in the file is the order of the list."""
    if not isinstance(tree, Mapping):
        return tree
    return [
        {"name": name, **node} if isinstance(node, Mapping) and inner in node else {"name": name, inner: node}
        for name, node in tree.items()
    ]


def check_word(text: str) -> str:
    """A name or a value, on one line. Raises ValueError for a text that a model could not repeat."""
    word = one_line(text)
    if not any(map(str.isalnum, word)) or len(word) > LONGEST_VALUE:
        raise ValueError(f"{text!r:.60}: expected 1 to {LONGEST_VALUE} characters, letters or digits among them")
    return word


Word = Annotated[str, AfterValidator(check_word)]


class Subdimension(Frozen):
    """A kind of value, and seed values: short phrases."""

    name: Word
    values: tuple[Word, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def as_list(cls, values: Any) -> Any:
        """In a nested tree, the values may be a mapping's keys."""
        return list(values) if isinstance(values, Mapping) else values


class Dimension(Frozen):
    """An aspect of answers that users value differently; a preference set has one value of each dimension."""

    name: Word
    description: str = ""
    subdimensions: tuple[Subdimension, ...] = Field(min_length=1)

    @field_validator("subdimensions", mode="before")
    @classmethod
    def as_list(cls, subdimensions: Any) -> Any:
        return as_named_list(subdimensions, "values")

    @model_validator(mode="after")
    def check_names(self) -> "Dimension":
        check_once([subdimension.name for subdimension in self.subdimensions], f"{self.name}: subdimension")
        check_once(
            [value for subdimension in self.subdimensions for value in subdimension.values], f"{self.name}: value"
        )
        for subdimension in self.subdimensions:
            for value in subdimension.values:
                if normalised(value) in (normalised(subdimension.name), normalised(self.name)):
                    raise ValueError(f"{self.name}: the value {value!r} only names its subdimension or dimension")
        return self

    @cached_property
    def seeds(self) -> dict[str, tuple[str, str]]:
        """Every seed value by its normalised form: (subdimension, value)."""
        return {
            normalised(value): (subdimension.name, value)
            for subdimension in self.subdimensions
            for value in subdimension.values
        }


class Taxonomy(Frozen):
    """Dimensions in canonical order. language: the language the model writes in; empty: the model chooses."""

    name: str = "taxonomy"
    language: str = ""
    dimensions: tuple[Dimension, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def wrap_tree(cls, tree: Any) -> Any:
        """A mapping without `dimensions` is the tree itself; it may have a name and a language, too."""
        if not isinstance(tree, Mapping) or "dimensions" in tree:
            return tree
        head = {name: text for name, text in tree.items() if name in ("name", "language") and isinstance(text, str)}
        return {**head, "dimensions": {name: subtree for name, subtree in tree.items() if name not in head}}

    @field_validator("dimensions", mode="before")
    @classmethod
    def as_list(cls, dimensions: Any) -> Any:
        return as_named_list(dimensions, "subdimensions")

    @model_validator(mode="after")
    def check_names(self) -> "Taxonomy":
        check_once([dimension.name for dimension in self.dimensions], "dimension")
        return self

    @property
    def values(self) -> int:
        return sum(len(dimension.seeds) for dimension in self.dimensions)


def check_once(names: list[str], what: str) -> None:
    """Raises ValueError when two names are the same but for case and white space."""
    keys: set[str] = set()
    for key in map(normalised, names):
        if key in keys:
            raise ValueError(f"{what} {key!r} is there twice; name each once")
        keys.add(key)
