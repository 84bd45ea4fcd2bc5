"""`synthmill run --dry-run`: check everything before a token is spent, and show the plan."""

from collections.abc import Mapping

from synthmill.flows.making.checks import check_engines, check_prompts, check_stages
from synthmill.flows.making.estimates import estimates
from synthmill.flows.making.limiting import limits_of
from synthmill.flows.making.plan import Plan

__all__ = ["check_prompts", "show_plan"]


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
    for estimate in estimates(plan.store, plan.stages, rows_of):
        step = estimate.planned
        lines.add_row(
            step.step + (" (made)" if estimate.is_made else ""),
            steps[step.source_key],
            by_engine(step.identity.get("engines", {})) or "none",
            *(f"<= {number:,}" for number in (estimate.rows, estimate.calls, estimate.tokens)),
        )
    console.print(lines)
    console.print("checked: templates, stage inputs, engines, input, store. Nothing was asked.")


def by_engine(roles: Mapping[str, str]) -> str:
    """Roles by the engine that plays them: `author, teacher: openai:MODEL`."""
    players: dict[str, list[str]] = {}
    for role, name in roles.items():
        players.setdefault(name, []).append(role)
    return "\n".join(f"{', '.join(names)}: {engine}" for engine, names in players.items())
