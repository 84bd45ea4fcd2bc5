"""retpo: turns of conversations and a corpus -> candidate queries -> ranks by retrievers -> picks and pairs."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.retpo_plans import plan_retpo
from flows.retpo_settings import RetpoSettings


@flow(name="retpo", flow_run_name="retpo-{settings.source.path}", persist_result=False)
def retpo(settings: RetpoSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_retpo(settings)).model_dump(mode="json")
