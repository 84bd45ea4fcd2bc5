"""`synthmill run --dry-run`: check everything before a token is spent, and show the plan."""

from collections.abc import Mapping

from synthmill.flows.making.forecast import NOTHING, Forecast, Measured, forecast, measure, most_tokens
from synthmill.flows.making.limiting import limits_of
from synthmill.flows.making.plan import Plan
from synthmill.schemas.bill import money_text
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
    prices = plan.settings.budget
    lines = table("step", "made from", "engines", "rows", "calls", "tokens", *(["money"] if prices.prices else []))
    measured = measure(plan.store) if prices.prices else Measured()
    total = NOTHING
    for step in plan.stages:
        stage, rows = step.stage, rows_of[step.source_key]
        calls = rows * stage.requests_per_row() if isinstance(stage, Recipe) else 0
        tokens = most_tokens(step, rows)
        engines = by_engine(step.identity.get("engines", {}))
        state = " (made)" if plan.store.manifest_path(stage.name, step.key).exists() else ""
        money = None if state else forecast(step, rows, prices, measured)
        total = total.plus(money or NOTHING)
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
            *([str(money or "")] if prices.prices else []),
        )
    console.print(lines)
    if prices.prices:
        console.print(f"money for what is not made: {total}{expectation(total)}", highlight=False)
    console.print("checked: templates, stage inputs, engines, input, store. Nothing was asked.")


def expectation(total: Forecast) -> str:
    """Where a forecast comes from."""
    if total.least is None:
        return "; a preview (--preview 10) measures the tokens of a call, and gives a range"
    return f", by the tokens that earlier calls took; at most {money_text(total.most)} + prompts" if total.most else ""


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
    if settings.kind != "openai":
        return  # Planned has looked at its files, to name it
    from synthmill.tasks.engines.served import served_models, server_url

    names = served_models(settings)
    if names and settings.model not in names:
        first = ", ".join(names[:8])
        raise EngineRefused(f"{server_url(settings)} does not serve {settings.model!r}; it serves {first}")
