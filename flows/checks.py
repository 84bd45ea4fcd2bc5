"""`synthmill run --dry-run`: everything that can be wrong is found before a token is spent, and the plan is shown."""

from flows.plan import Plan
from schemas.errors import EngineRefused, InputError
from schemas.rows import Row
from schemas.settings import EngineSettings
from storage.sources import read_chunks
from tasks.frames import FrameStage
from tasks.prompts import load
from tasks.recipe import Recipe

CHARS_PER_TOKEN = 4


def check(planned: Plan) -> None:
    """Check templates, stages, engines and input; print the plan. Raises InputError or EngineError."""
    from rich.console import Console

    from flows.looking import table

    settings = planned.settings
    check_stages(planned)
    check_engines(planned)
    chunks = list(read_chunks(settings.source, settings.rows_per_part))
    rows = sum(len(chunk.rows) for chunk in chunks)
    dropped = sum(len(chunk.dropped) for chunk in chunks)
    longest = max((len(row.prompt) for chunk in chunks for row in chunk.rows), default=0)
    if rows == 0:
        raise InputError(f"{settings.source.path}: none of its {dropped} rows can be used")
    console = Console()
    console.print(
        f"{settings.source.path}: {rows:,} instructions, {dropped:,} rows cannot be read, longest prompt "
        f"{longest:,} characters "
        f"(about {longest // CHARS_PER_TOKEN:,} tokens)",
        highlight=False,
    )
    shown = table("stage", "made from", "engines", "rows", "calls", "tokens")
    for step in planned.stages:
        stage = step.stage
        calls = rows * stage.requests_per_row() if isinstance(stage, Recipe) else 0
        tokens = calls * stage.sampling.max_tokens if isinstance(stage, Recipe) else 0
        what = stage.takes.__name__ if isinstance(stage, Recipe) else ", ".join(stage.needs)
        engines = ", ".join(f"{role}: {name}" for role, name in step.identity.get("engines", {}).items())
        done = " (made)" if planned.store.manifest_path(stage.name, step.key).exists() else ""
        shown.add_row(stage.name + done, what, engines or "none", f"<= {rows:,}", f"<= {calls:,}", f"<= {tokens:,}")
    console.print(shown)
    console.print("checked: templates, stage inputs, engines, input file, store. Nothing was asked.")


def check_stages(planned: Plan) -> None:
    """Every template against what its recipe gives it, every stage's input against what the one before makes."""
    has: set[str] = set()
    for step in planned.stages:
        stage = step.stage
        if isinstance(stage, FrameStage):
            if has and (missing := set(stage.needs) - has):
                raise InputError(
                    f"stage {stage.name} needs {', '.join(sorted(missing))}, which the stage before it does not make"
                )
            has |= set(stage.adds)
            continue
        if has and (missing := {name for name, info in stage.takes.model_fields.items() if info.is_required()} - has):
            raise InputError(
                f"stage {stage.name} needs {', '.join(sorted(missing))}, which the stage before it does not make"
            )
        check_prompts(stage)
        has = set(stage.makes.model_fields)


def check_prompts(recipe: Recipe[Row, Row]) -> None:
    """Raises InputError for a variable that the recipe does not give, or a field that its row does not have."""
    for name, given in recipe.prompts.items():
        prompt = load(name)
        if unknown := prompt.variables() - {"row", *given}:
            raise InputError(f"prompt {name} uses {', '.join(sorted(unknown))}, which {recipe.name} does not give it")
        if unknown := prompt.fields("row") - set(recipe.takes.model_fields):
            raise InputError(
                f"prompt {name} uses row.{', row.'.join(sorted(unknown))}, which {recipe.takes.__name__} does not have"
            )


def check_engines(planned: Plan) -> None:
    """Every engine of stages that are not made yet."""
    missing = [s for s in planned.stages if not planned.store.manifest_path(s.stage.name, s.key).exists()]
    for settings in {spec.model_dump_json(): spec for step in missing for spec in step.roles.values()}.values():
        check_engine(settings)


def check_engine(settings: EngineSettings) -> None:
    """Whether an engine can be reached: a server answers, a file is there; nothing is loaded and nothing is asked."""
    if settings.kind != "openai":
        return  # naming it (Planned) has looked at its files
    from tasks.engines.chat_server import served_models, server_url

    names = served_models(settings)
    if names and settings.model not in names:
        shown = ", ".join(names[:8])
        raise EngineRefused(f"{server_url(settings)} does not serve {settings.model!r}; it serves {shown}")
