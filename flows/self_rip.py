"""self-rip: prompts that were kept -> new ones like them -> answers -> scores -> pairs within the limits of before."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.preference_plans import plan_self_rip
from flows.preference_settings import SelfRipSettings


@flow(name="self-rip", flow_run_name="self-rip-{settings.source.path}", persist_result=False)
def self_rip(settings: SelfRipSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_self_rip(settings)).model_dump(mode="json")
