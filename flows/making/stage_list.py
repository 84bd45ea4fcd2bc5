"""Every stage by its name: the classes that the modules of tasks/ and of the methods define. Nothing registers one, and
one that is asked for by its name is imported alone.
"""

import pkgutil
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

from synthmill.flows.making.stage_files import PACKAGES, stage_files
from synthmill.schemas.errors import InputError
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.recipe import Recipe

AnyStage = type[Recipe[Any, Any]] | type[FrameStage]


@cache
def stages_by_name() -> dict[str, AnyStage]:
    """Imports all modules that may define a stage; in the order of the stages' names."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    stages = {stage.name: stage for stage in (*subclasses(Recipe), *subclasses(FrameStage))}
    return dict(sorted(stages.items()))


def subclasses(base: Any) -> Iterator[Any]:
    """The stages under a class: those of this tree that have a name of their own."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith(PACKAGES) and "name" in vars(kind) and "[" not in kind.__name__:
            yield kind
        yield from subclasses(kind)


def stage_named(name: str) -> AnyStage:
    """A stage's class. Raises InputError that names the nearest ones."""
    files = [stage for stage in stage_files() if stage.name == name]
    if len(files) == 1:
        stage: AnyStage = getattr(import_module(files[0].module), files[0].kind)
        return stage
    stages = stages_by_name()
    if name in stages:
        return stages[name]
    near = get_close_matches(name, stages, n=4, cutoff=0.5)
    nearest = f"; the nearest: {', '.join(near)}" if near else ""
    raise InputError(f"no stage is called {name!r}{nearest}; `synthmill stages` lists all")
