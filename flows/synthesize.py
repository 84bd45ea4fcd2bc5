"""synthesize: instructions -> preference sets -> system messages -> answers -> rewards -> pairs -> a dataset."""

from typing import Any

from prefect import flow

from flows.making.make import run_plan
from flows.plans import plan_synthesize
from schemas.synthesize_settings import SynthesizeSettings


@flow(name="synthesize", flow_run_name="synthesize-{settings.source.path}", persist_result=False)
def synthesize(settings: SynthesizeSettings) -> dict[str, Any]:
    """Run every stage that is not made yet; the run's record. Raises EngineError, InputError, StoreError, Stopped."""
    return run_plan(lambda: plan_synthesize(settings)).model_dump(mode="json")
