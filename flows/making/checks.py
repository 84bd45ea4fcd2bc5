"""What is checked before a token is spent: templates, the rows that a stage takes, engines."""

import sys

from synthmill.flows.making.plan import Plan
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Row
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.recipe import Recipe


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
    """Check that a server answers, and say where it does not list the model; loads nothing and asks nothing. Raises
    EngineError.
    """
    from synthmill.tasks.engines.served import check_key, note_unlisted

    check_key(settings)
    if settings.kind != "openai" or (settings.batch and settings.batch.file):
        return  # Planned has looked at its files, to name it; or nobody is asked
    if note := note_unlisted(settings):
        print(note, file=sys.stderr, flush=True)
