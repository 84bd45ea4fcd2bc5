"""dialogues: applications -> inputs -> outputs, reasons -> role-swap dialogues -> training rows and pairs."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.plans import plan_dialogues
from schemas.dialogue_settings import DialogueSettings


@flow(name="dialogues", flow_run_name="dialogues-{settings.applications[0]}", persist_result=False)
def dialogues(settings: DialogueSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_dialogues(settings)).model_dump(mode="json")
