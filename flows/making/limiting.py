"""What a plan's settings say of its limits."""

from collections.abc import Mapping

from synthmill.flows.making.plan import Plan
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import BudgetSettings, Usage
from synthmill.schemas.errors import InputError, SynthmillError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store, read_dropped
from synthmill.storage.spending import spent_by
from synthmill.tasks.engines.engine import engine_name
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.budget import Budget
from synthmill.tasks.running.limits import RunLimits


def limits_of(planned: Plan) -> RunLimits:
    """The run's limits; what its job has spent is counted as stages begin. Raises InputError for an engine without a
    price, and for the limit of a step that is not there or asks no model.
    """
    settings = planned.settings
    budget = settings.budget
    asking = [step.step for step in planned.stages if isinstance(step.stage, Recipe)]
    if unknown := sorted(set(budget.stages) - set(asking)):
        raise InputError(f"budget.stages.{unknown[0]}: no such step asks a model; expected {', '.join(asking)}")
    engines = {engine_name(engine): engine for step in planned.stages for engine in step.roles.values()}
    check_prices(budget, engines)
    return run_limits(planned.store, planned.dataset.name, budget, settings.drop_limit)


def check_prices(budget: BudgetSettings, engines: Mapping[str, EngineSettings]) -> None:
    """Raises InputError where money is limited and a server's engine has no price; engines: by name."""
    if budget.counts_money and (
        free := [n for n, e in engines.items() if not e.in_process and budget.price(n) is None]
    ):
        example = f"budget.prices={{'{free[0]}': {{prompt: 1, completion: 1}}}}"
        raise InputError(f"budget.money needs a price of {free[0]}; expected {example}")


def run_limits(store: Store, job: str, budget: BudgetSettings, drop_limit: float) -> RunLimits:
    """The limits of a run of a job, whose runs in this store spend from one budget."""
    if not budget.limited:
        return RunLimits(None, drop_limit)

    def spent() -> dict[str, Usage]:
        return spent_by(store, job, budget)

    return RunLimits(Budget(budget, {}), drop_limit, spent)


def check_something_left(store: Store, manifest: Manifest, step: str = "") -> None:
    """A run in which every row failed has failed."""
    if manifest.rows == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
        first = next((row for seal in manifest.parts for row in read_dropped(store, seal)), None)
        detail = f"; the first: {first.detail}" if first and first.detail else ""
        bug = "; once the recipe is mended, --retry-lost makes them" if "recipe_error" in manifest.dropped else ""
        raise SynthmillError(
            f"every one of the {manifest.rows_in} rows was dropped in {step or manifest.stage} ({reasons}){detail}; "
            f"`synthmill show {manifest.reference}` shows them{bug}"
        )
