"""What is checked before a token is spent: templates, the rows that a stage takes, engines."""

from collections.abc import Collection

from synthmill.flows.making.plan import Plan
from synthmill.schemas.errors import EngineRefused, InputError
from synthmill.schemas.rows import Row
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Stage


def columns_needed(stage: Stage) -> set[str]:
    """The columns that a stage cannot do without."""
    if isinstance(stage, Recipe):
        own = {name for name, info in stage.takes.model_fields.items() if info.is_required()}
        return own | set(getattr(stage, "needs", ()))
    return set(stage.needs)


def check_rows(stage: Stage, columns: Collection[str], step: str, hint: str = "") -> None:
    """Raises InputError where rows of a step with these columns are none that a stage takes. hint: what to do."""
    if missing := sorted(columns_needed(stage) - set(columns)):
        takes = f"{stage.takes.__name__} rows" if isinstance(stage, Recipe) else "rows"
        raise InputError(
            f"the stage {stage.name} takes {takes} with the columns {', '.join(sorted(columns_needed(stage)))}; the "
            f"rows of {step} have no {', '.join(missing)}, they have {', '.join(columns)}{hint}"
        )


def check_stages(plan: Plan) -> None:
    """Check templates against what their recipes give them, and stages' inputs against what their sources make. Raises
    InputError.
    """
    columns: dict[str, set[str]] = {}
    for step in plan.stages:
        stage, has = step.stage, columns.get(step.source_key, set())
        if isinstance(stage, Recipe):
            check_prompts(stage)
            columns[step.key] = set(stage.makes.model_fields)
        else:
            columns[step.key] = has | set(stage.adds)
        if has and (missing := columns_needed(stage) - has):
            raise InputError(
                f"stage {stage.name} needs {', '.join(sorted(missing))}, which the stage before it does not make"
            )


def check_prompts(recipe: Recipe[Row, Row]) -> None:
    """Raises InputError for a variable that the recipe does not give, or a field that its row does not have."""
    for name, variables in recipe.prompts.items():
        prompt = load(name)
        if unknown := prompt.variables() - {"row", *variables}:
            raise InputError(f"prompt {name} uses {', '.join(sorted(unknown))}, which {recipe.name} does not give it")
        has = set(recipe.takes.model_fields)
        if unknown := {name for name in prompt.fields("row") - has if not hasattr(recipe.takes, name)}:
            raise InputError(
                f"prompt {name} uses row.{', row.'.join(sorted(unknown))}, which {recipe.takes.__name__} does not have"
            )


def check_engines(plan: Plan) -> None:
    """Check the engines of stages that are not made yet."""
    unmade = [s for s in plan.stages if not plan.store.manifest_path(s.stage.name, s.key).exists()]
    for settings in {spec.model_dump_json(): spec for step in unmade for spec in step.roles.values()}.values():
        check_engine(settings)


def check_engine(settings: EngineSettings) -> None:
    """Check that a server answers and has the model; loads nothing and asks nothing. Raises EngineError."""
    if settings.kind != "openai":
        return  # Planned has looked at its files, to name it
    from synthmill.tasks.engines.served import served_models, server_url

    names = served_models(settings)
    if names and settings.model not in names:
        first = ", ".join(names[:8])
        raise EngineRefused(f"{server_url(settings)} does not serve {settings.model!r}; it serves {first}")
