"""Every public stage class by its name, found by reading the modules of tasks and of flows/methods; none is imported
before it is asked for.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from synthmill.flows import methods

ROOT = Path(__file__).parents[2]
TASKS = "synthmill.tasks"
CLASS = re.compile(r"^class ([A-Za-z]\w*)\b", re.M)
NAME = re.compile(r"^    name: ClassVar(\[str\])? = [\"']", re.M)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module that may hold stages."""
    for path in sorted((ROOT / "tasks").rglob("*.py")):
        parts = path.relative_to(ROOT / "tasks").with_suffix("").parts
        yield ".".join((TASKS, *(part for part in parts if part != "__init__"))), path
    for folder in map(Path, methods.__path__):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((methods.__name__, *(part for part in parts if part != "__init__"))), path


@cache
def stage_modules() -> dict[str, str]:
    """Class name -> module, of every class that says `name: ClassVar = "..."`, as stages do."""
    return {name: module for module, path in modules() for name in stages_in(text_of(path))}


def text_of(path: Path) -> str:
    """A file's text; empty for a file of a user's that cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def stages_in(text: str) -> Iterator[str]:
    """The public classes of a module that are stages, without parsing it: that takes half a second for all of them."""
    starts = list(CLASS.finditer(text))
    for start, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=False):
        if NAME.search(text, start.end(), end):
            yield start[1]


def stage_class(name: str) -> Any:
    """The class. Raises AttributeError where there is none."""
    module = stage_modules().get(name)
    if module is None:
        raise AttributeError(f"no stage is called {name}; there are {', '.join(sorted(stage_modules()))}")
    return getattr(import_module(module), name)
