"""What a plan's settings say of its limits."""

from synthmill.flows.making.plan import Plan
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import Usage
from synthmill.schemas.errors import InputError, SynthmillError
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
    if not budget.limited:
        return RunLimits(None, settings.drop_limit)
    engines = {engine_name(engine): engine for step in planned.stages for engine in step.roles.values()}
    if budget.counts_money and (
        free := [n for n, e in engines.items() if not e.in_process and budget.price(n) is None]
    ):
        example = f"budget.prices={{'{free[0]}': {{prompt: 1, completion: 1}}}}"
        raise InputError(f"budget.money needs a price of {free[0]}; expected {example}")

    def spent() -> dict[str, Usage]:
        return spent_by(planned.store, planned.dataset.name, budget)

    return RunLimits(Budget(budget, {}), settings.drop_limit, spent)


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
