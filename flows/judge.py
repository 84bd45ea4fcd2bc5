"""judge: bench rows -> a model's answers -> one judgement per rubric, in several runs -> scores."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.multifaceted_plans import plan_judge
from schemas.multifaceted_settings import JudgeSettings


@flow(name="judge", flow_run_name="judge-{settings.source.path}", persist_result=False)
def judge(settings: JudgeSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_judge(settings)).model_dump(mode="json")
