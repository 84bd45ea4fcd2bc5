"""Settings that name files or folders. Their type says so, and what is published shows no folder of this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel

from synthmill.schemas.calls import Frozen


@dataclass(frozen=True)
class NamesFile:
    """Marks a setting that may name a file or folder. rows: the rows of that file end up in the dataset."""

    rows: bool = False


LocalPath = Annotated[str, NamesFile()]
RowsPath = Annotated[str, NamesFile(rows=True)]


def path_settings(*, rows: bool = False) -> set[str]:
    """The settings that carry the mark, by name, in every settings class that is loaded; rows: those of sources."""
    return {
        name
        for model in subclasses(Frozen)
        for name, field in model.model_fields.items()
        for mark in (*field.metadata, *marks_in(field.annotation))
        if isinstance(mark, NamesFile) and mark.rows >= rows
    }


def subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def marks_in(annotation: Any) -> Iterator[Any]:
    """The marks inside an annotation: of a tuple's items, and of settings that can be written as a path."""
    if isinstance(mark := getattr(annotation, "names_file", None), NamesFile):
        yield mark
    for argument in (*getattr(annotation, "__metadata__", ()), *get_args(annotation)):
        if isinstance(argument, NamesFile):
            yield argument
        else:
            yield from marks_in(argument)
