"""Every public stage class by its name; its module is imported when it is asked for."""

from functools import cache
from importlib import import_module
from typing import Any

from synthmill.flows.making.stage_files import stage_files


@cache
def stage_modules() -> dict[str, str]:
    """Class name -> module."""
    return {stage.kind: stage.module for stage in stage_files()}


def stage_class(name: str) -> Any:
    """The class. Raises AttributeError where there is none."""
    module = stage_modules().get(name)
    if module is None:
        raise AttributeError(f"no stage is called {name}; there are {', '.join(sorted(stage_modules()))}")
    return getattr(import_module(module), name)
