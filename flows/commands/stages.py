"""`synthmill stages`: every stage, with what it takes, makes and asks; or one with its settings."""

from synthmill.flows.commands.list_settings import show_settings
from synthmill.flows.making.stage_list import AnyStage, stage_named, stages_by_name
from synthmill.flows.making.steps import OF_SAMPLING, kind_of
from synthmill.flows.terminal.tables import table
from synthmill.tasks.recipe import Recipe


def show_stages(name: str | None) -> None:
    """Print the list, or one stage. Raises InputError for a name that no stage has."""
    from rich.console import Console

    console = Console(emoji=False)
    if name is not None:
        return show_stage(stage_named(name))
    lines = table("stage", "takes", "makes", "asks", "what it is")
    for stage in stages_by_name().values():
        lines.add_row(stage.name, takes(stage), makes(stage), asks(stage), about(stage))
    console.print(lines)
    console.print("`synthmill stages NAME` shows a stage's columns and settings; a step of a pipeline names a stage.")
    return None


def show_stage(stage: AnyStage) -> None:
    """A stage's docstring, columns and settings."""
    print(f"{stage.name}: {' '.join((stage.__doc__ or '').split())}\n")
    print(f"takes: {', '.join(columns_taken(stage)) or 'any row'}")
    print(f"makes: {', '.join(columns_made(stage)) or 'the same columns'}")
    if roles := asks(stage):
        print(f"asks:  {roles}; its sampling may be written flat: {', '.join(OF_SAMPLING)}")
    show_settings(stage)


def columns_taken(stage: AnyStage) -> list[str]:
    """The columns without which it cannot read a row."""
    if issubclass(stage, Recipe):
        return [name for name, info in stage.takes.model_fields.items() if info.is_required()]
    return list(stage.needs)


def columns_made(stage: AnyStage) -> list[str]:
    """The columns of its rows, or those that it adds."""
    return list(stage.makes.model_fields if issubclass(stage, Recipe) else stage.adds)


def takes(stage: AnyStage) -> str:
    columns = columns_taken(stage)
    return kind_of(columns) if len(columns) > 1 else "rows"


def makes(stage: AnyStage) -> str:
    columns = columns_made(stage)
    if issubclass(stage, Recipe) or "id" in columns:
        return kind_of(columns) if len(columns) > 1 else "rows"
    return f"+ {', '.join(columns)}" if columns else "fewer rows, or other ones"


def asks(stage: AnyStage) -> str:
    """The roles that it asks."""
    return ", ".join(getattr(stage, "roles", ())) if issubclass(stage, Recipe) else ""


def about(stage: AnyStage) -> str:
    """The first sentence of its docstring."""
    return " ".join((stage.__doc__ or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")
