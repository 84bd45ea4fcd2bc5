"""`synthmill run --dry-run --picture PATH`: the steps of a plan as a graph, drawn from the plan itself."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from synthmill.flows.commands.stages import columns_made
from synthmill.flows.making.estimates import Estimate
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.steps import kind_of
from synthmill.flows.pages.graph import Box, draw_graph, players, texts_in
from synthmill.schemas.errors import InputError
from synthmill.storage.files import write_text
from synthmill.storage.published.provenance import public_engine
from synthmill.tasks.frames import FileStage
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Stage


def check_picture(path: Path, *, dry_run: bool) -> None:
    """Raises InputError for a picture that cannot be."""
    if not dry_run:
        raise InputError("--picture draws the plan of a dry run; add --dry-run")
    if path.suffix.lower() != ".svg":
        raise InputError(f"{path} has an unknown ending; a picture is an SVG: name it {path.with_suffix('.svg')}")


def write_picture(path: Path, plan: Plan, estimates: Iterable[Estimate], rows_of: Mapping[str, int]) -> None:
    """Write the SVG. rows_of: the rows of the plan's sources, by key. Raises InputError where it cannot be written."""
    boxes = {
        source.key: Box((step, f"reads {source.stage.replace('_', ' ')}", f"{rows_of[source.key]:,} rows"), "read")
        for source, step in zip(plan.sources, plan.source_steps.values(), strict=True)
    }
    kinds = {source.key: source.stage.replace("_", " ") for source in plan.sources}
    for estimate in estimates:
        planned = estimate.planned
        kinds[planned.key] = kind_made(planned.stage, kinds[planned.source_key])
        boxes[planned.key] = box_of(estimate, kinds[planned.key])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, draw_graph(boxes, f"the steps of {plan.flow}"))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name another place") from error
    print(f"picture: {path}")


def kind_made(stage: Stage, kind: str) -> str:
    """What a stage makes of rows of a kind; one that keeps, adds or changes columns leaves them of this kind."""
    if isinstance(stage, FileStage):
        return "files"
    columns = columns_made(type(stage))
    return kind_of(columns) if "id" in columns else kind


def box_of(estimate: Estimate, kind: str) -> Box:
    """A step: its stage, the kind of rows that it makes, who is asked, and what it takes at most."""
    planned, stage = estimate.planned, estimate.planned.stage
    engines = {role: public_engine(engine) for role, engine in planned.identity.get("engines", {}).items()}
    counts = [] if kind == "files" else [f"<= {estimate.rows:,} rows"]
    counts += [f"<= {estimate.calls:,} calls"] if isinstance(stage, Recipe) else []
    lines = (
        planned.step,
        f"makes {kind}" if stage.name == planned.step else f"{stage.name}, makes {kind}",
        *players(engines),
        "made" if estimate.is_made else ", ".join(counts),
    )
    beside = tuple(texts_in([planned.identity, planned.others]))
    return Box(lines, "asks" if isinstance(stage, Recipe) else "work", planned.source_key, beside)
