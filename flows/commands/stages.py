"""`synthmill stages`: every stage, by the kind of rows that it takes; or one with its columns and settings."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from synthmill.flows.commands.list_settings import settings_of, show_settings
from synthmill.flows.making.stage_list import AnyStage, stage_named, stages_by_name
from synthmill.flows.making.steps import OF_SAMPLING, kind_of
from synthmill.flows.terminal.tables import print_json, table
from synthmill.schemas.rows import TableRow
from synthmill.schemas.settings_files import written_name
from synthmill.tasks.frames import FileStage
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.outside import is_outside, stage_settings

KIT = ("synthmill.tasks.asking.", "synthmill.tasks.tables.")
"""Rooms of stages that take rows of any columns."""
GROUPS = ("any rows", "prompts", "pools", "preferences", "turns", "passages", "rows of its method")
WIDTH = 100  # of the list where it is not shown on a terminal
COLUMNS = {"stage": 20, "makes": 15, "asks": 16}
"""Their widths, the same in all groups."""


def show_stages(name: str | None, as_json: bool = False) -> None:
    """Print the list, or one stage, which may be of a file: ./mine.py:Clean. Raises InputError for a name that no
    stage has.
    """
    from rich.console import Console

    stage = None if name is None else stage_settings(name) if is_outside(name) else stage_named(name)
    if as_json:
        return print_json(as_object(stage) if stage else [*map(as_object, stages_by_name().values())])
    if stage is not None:
        return show_stage(stage, str(name))
    console = Console(emoji=False, width=None if sys.stdout.isatty() else WIDTH)
    stages = stages_by_name().values()
    for group in GROUPS:
        if members := [stage for stage in stages if takes(stage) == group]:
            show_group(console, group, members)
    console.print("`synthmill stages NAME` shows a stage's columns and settings; a step of a pipeline names a stage.")
    return None


def as_object(stage: Any) -> dict[str, Any]:
    """What `show_stage` prints, for JSON."""
    settings = [dict(zip(("setting", "default", "meaning"), cells, strict=True)) for cells in settings_of(stage)]
    described = {"about": " ".join((stage.__doc__ or "").split()), "settings": settings}
    if not hasattr(stage, "needs") and not hasattr(stage, "takes"):  # a function of a user's file
        return described
    columns = {"takes": columns_taken(stage), "makes": columns_made(stage)}
    roles = stage.roles if issubclass(stage, Recipe) else ()
    return {"stage": stage.name, "group": takes(stage), **columns, "asks": list(roles), **described}


def show_group(console: Any, group: str, stages: Iterable[AnyStage]) -> None:
    """The stages that take one kind of rows; those of any rows without what they make, which their settings say."""
    names = ["stage", "asks"] if group == GROUPS[0] else list(COLUMNS)
    lines = table(*names, "what it is")
    lines.title, lines.title_justify = f"takes {group}", "left"
    for name, column in zip(names, lines.columns, strict=False):
        column.min_width = COLUMNS[name]
    for stage in stages:
        cells = {"stage": stage.name, "makes": makes(stage), "asks": asks(stage)}
        lines.add_row(*(cells[name] for name in names), Text(about(stage)))
    console.print(lines)


def show_stage(stage: Any, name: str) -> None:
    """A stage's docstring, columns and settings; of a function, its settings."""
    description = " ".join((stage.__doc__ or "").split())
    print(f"{name}: {description}\n" if description else f"{name}\n")
    if hasattr(stage, "takes") or hasattr(stage, "needs"):
        print(f"takes: {', '.join(columns_taken(stage)) or 'any row'}")
        print(f"makes: {', '.join(columns_made(stage)) or 'what its settings say'}")
    if issubclass(stage, Recipe):
        print(f"asks:  {', '.join(stage.roles)}; its sampling may be written flat: {', '.join(OF_SAMPLING)}")
    required = [written_name(setting, info) for setting, info in stage.model_fields.items() if info.is_required()]
    if required:
        print(f"must be set: {', '.join(required)}")
    show_settings(stage)


def columns_taken(stage: AnyStage) -> list[str]:
    """The columns without which it cannot read a row."""
    if issubclass(stage, Recipe):
        return [name for name, info in stage.takes.model_fields.items() if info.is_required()]
    return list(stage.needs)


def columns_made(stage: AnyStage) -> list[str]:
    """The columns of its rows, or those that it adds; none where its settings say them."""
    if issubclass(stage, Recipe) and stage.makes is TableRow:
        return []
    return list(stage.makes.model_fields if issubclass(stage, Recipe) else stage.adds)


def takes(stage: AnyStage) -> str:
    """The group of a stage."""
    if stage.__module__.startswith(KIT) and not columns_taken(stage)[1:]:
        return GROUPS[0]
    kind = kind_of(columns_taken(stage))
    return kind if kind in GROUPS else GROUPS[-1]


def makes(stage: AnyStage) -> str:
    """The kind of its rows, or the columns that it adds."""
    columns = columns_made(stage)
    if issubclass(stage, FileStage):
        return "files"
    if issubclass(stage, Recipe) or "id" in columns:
        return kind_of(columns)
    if not columns:
        return "fewer rows"
    return f"+ {columns[0]}" if len(columns) == 1 else f"+ {len(columns)} columns"


def asks(stage: AnyStage) -> str:
    """The roles that it asks, or the first one and how many more."""
    roles = stage.roles if issubclass(stage, Recipe) else ()
    return ", ".join(roles) if len(roles) < 3 else f"{roles[0]} and {len(roles) - 1} more"


def about(stage: AnyStage) -> str:
    """The first sentence of its docstring, up to a semicolon."""
    first = " ".join((stage.__doc__ or "").split("\n\n")[0].split())
    return re.split(r"[.;] ", first)[0].rstrip(".")
