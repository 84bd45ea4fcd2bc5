"""`synthmill run --dry-run`: check everything before a token is spent, and show the plan."""

from pathlib import Path

from synthmill.flows.making.checks import check_engines, check_stages
from synthmill.flows.making.estimates import estimates
from synthmill.flows.making.forecast import NOTHING, Forecast, Measured, forecast, measure
from synthmill.flows.making.limiting import limits_of
from synthmill.flows.making.plan import Plan
from synthmill.flows.pages.graph import players
from synthmill.schemas.bill import money_text


def show_plan(plan: Plan, picture: Path | None = None) -> None:
    """Check templates, stages, engines and input; print the plan, and draw it. Raises InputError or EngineError."""
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
    steps_ahead = list(estimates(plan.store, plan.stages, rows_of))
    for estimate in steps_ahead:
        step = estimate.planned
        money = None if estimate.is_made else forecast(step, estimate.rows_in, prices, measured)
        total = total.plus(money or NOTHING)
        lines.add_row(
            step.step + (" (made)" if estimate.is_made else ""),
            steps[step.source_key],
            "\n".join(players(step.identity.get("engines", {}))) or "none",
            *(f"<= {number:,}" for number in (estimate.rows, estimate.calls, estimate.tokens)),
            *([str(money or "")] if prices.prices else []),
        )
    console.print(lines)
    if prices.prices:
        console.print(f"money for what is not made: {total}{expectation(total)}", highlight=False)
    if picture:
        from synthmill.flows.commands.plan_picture import write_picture

        write_picture(picture, plan, steps_ahead, rows_of)
    console.print("checked: templates, stage inputs, engines, input, store. Nothing was asked.")


def expectation(total: Forecast) -> str:
    """Where a forecast comes from."""
    if total.least is None:
        return "; a preview (--preview 10) measures the tokens of a call, and gives a range"
    return f", by the tokens that earlier calls took; at most {money_text(total.most)} + prompts" if total.most else ""
