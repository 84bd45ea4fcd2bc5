"""Where stages are defined, found by reading the modules of tasks and of flows/methods; none is imported for it."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("synthmill.tasks", "synthmill.flows.methods")
CLASS = re.compile(r"^class ([A-Za-z]\w*)\b", re.M)
NAME = re.compile(r"^    name: ClassVar(?:\[str\])? = [\"'](\w*)", re.M)


class StageFile(NamedTuple):
    """Where a stage is defined. kind: its class's name; name: what a step of a pipeline calls it."""

    kind: str
    name: str
    module: str


@cache
def stage_files() -> tuple[StageFile, ...]:
    """Every public class that says `name: ClassVar = "..."`, as stages do."""
    return tuple(StageFile(kind, name, module) for module, path in modules() for kind, name in stages_in(text_of(path)))


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module that may hold stages."""
    for package in PACKAGES:
        for folder in map(Path, import_module(package).__path__):
            for path in sorted(folder.rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def text_of(path: Path) -> str:
    """A file's text; empty for a file of a user's that cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def stages_in(text: str) -> Iterator[tuple[str, str]]:
    """(class, name) of a module's public stages, without parsing it: that takes half a second for all of them."""
    starts = list(CLASS.finditer(text))
    for start, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=False):
        if name := NAME.search(text, start.end(), end):
            yield start[1], name[1]
