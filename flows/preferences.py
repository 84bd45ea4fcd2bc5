"""preferences: prompts -> N answers of one model or several -> scores -> pairs by several rules -> dataset."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.preference_plans import plan_preferences
from flows.preference_settings import PreferencesSettings


@flow(name="preferences", flow_run_name="preferences-{settings.source.path}", persist_result=False)
def preferences(settings: PreferencesSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_preferences(settings)).model_dump(mode="json")
