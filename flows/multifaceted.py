"""multifaceted: instructions -> preference sets -> system messages -> responses -> SFT, preference, RM and bench."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.multifaceted_plans import plan_multifaceted
from schemas.multifaceted_settings import MultifacetedSettings


@flow(name="multifaceted", flow_run_name="multifaceted-{settings.source.path}", persist_result=False)
def multifaceted(settings: MultifacetedSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_multifaceted(settings)).model_dump(mode="json")
