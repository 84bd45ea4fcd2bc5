"""`synthmill run --dry-run`: check everything before a token is spent, and show the plan."""

from collections.abc import Mapping

from synthmill.flows.making.limiting import limits_of
from synthmill.flows.making.plan import Plan
from synthmill.schemas.errors import EngineRefused, InputError
from synthmill.schemas.rows import Row
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.frames import FileStage
from synthmill.tasks.recipe import Recipe


def show_plan(plan: Plan) -> None:
    """Check templates, stages, engines and input; print the plan. Raises InputError or EngineError."""
    from rich.console import Console

    from synthmill.flows.terminal.tables import table

    check_stages(plan)
    limits_of(plan)
    check_engines(plan)
    console = Console()
    rows_of: dict[str, int] = {}
    for source in plan.sources:
        rows_of[source.key], description = source.look()
        console.print(description, highlight=False, markup=False)
    steps = plan.source_steps | {step.key: step.step for step in plan.stages}
    lines = table("step", "made from", "engines", "rows", "calls", "tokens")
    for step in plan.stages:
        stage, rows = step.stage, rows_of[step.source_key]
        calls = rows * stage.requests_per_row() if isinstance(stage, Recipe) else 0
        tokens = rows * stage.tokens_per_row() if isinstance(stage, Recipe) else 0
        engines = by_engine(step.identity.get("engines", {}))
        state = " (made)" if plan.store.manifest_path(stage.name, step.key).exists() else ""
        rows_of[step.key] = rows * (1 if isinstance(stage, Recipe) else stage.rows_per_row())
        if isinstance(stage, FileStage):
            rows_of[step.key] = 1
        lines.add_row(
            step.step + state,
            steps[step.source_key],
            engines or "none",
            f"<= {rows_of[step.key]:,}",
            f"<= {calls:,}",
            f"<= {tokens:,}",
        )
    console.print(lines)
    console.print("checked: templates, stage inputs, engines, input, store. Nothing was asked.")


def by_engine(roles: Mapping[str, str]) -> str:
    """Roles by the engine that plays them: `author, teacher: openai:MODEL`."""
    players: dict[str, list[str]] = {}
    for role, name in roles.items():
        players.setdefault(name, []).append(role)
    return "\n".join(f"{', '.join(names)}: {engine}" for engine, names in players.items())


def check_stages(plan: Plan) -> None:
    """Check templates against what their recipes give them, and stages' inputs against what their sources make. Raises
    InputError.
    """
    columns: dict[str, set[str]] = {}
    for step in plan.stages:
        stage, has = step.stage, columns.get(step.source_key, set())
        if isinstance(stage, Recipe):
            needs = {name for name, info in stage.takes.model_fields.items() if info.is_required()}
            check_prompts(stage)
            columns[step.key] = set(stage.makes.model_fields)
        else:
            needs = set(stage.needs)
            columns[step.key] = has | set(stage.adds)
        if has and (missing := needs - has):
            raise InputError(
                f"stage {stage.name} needs {', '.join(sorted(missing))}, which the stage before it does not make"
            )


def check_prompts(recipe: Recipe[Row, Row]) -> None:
    """Raises InputError for a variable that the recipe does not give, or a field that its row does not have."""
    for name, variables in recipe.prompts.items():
        prompt = recipe.template(name)
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
    if settings.kind != "openai" or (settings.batch and settings.batch.file):
        return  # Planned has looked at its files, to name it; or nobody is asked
    from synthmill.tasks.engines.served import served_models, server_url

    names = served_models(settings)
    if names and settings.model not in names:
        first = ", ".join(names[:8])
        raise EngineRefused(f"{server_url(settings)} does not serve {settings.model!r}; it serves {first}")
