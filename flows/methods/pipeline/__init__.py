"""Steps of one's own, from a YAML file: `synthmill run FILE.yaml`.

Each step is a stage with its settings; `synthmill stages` lists them.
"""

from functools import cache

from synthmill.flows.making.plan import Plan, open_store
from synthmill.flows.making.steps import StepPlanner
from synthmill.flows.methods.pipeline.dataset import check_published, published_dataset
from synthmill.flows.methods.pipeline.settings import PipelineSettings, PublishedTable
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.asking.own_prompts import with_prompt_texts
from synthmill.tasks.engines.engine import resolve


def plan(settings: PipelineSettings) -> Plan:
    """Resolve engines, ids and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_store(settings)

    @cache
    def engine_of(role: str) -> EngineSettings:
        return resolve(settings.engine(role), store)

    planner = StepPlanner(settings, engine_of)
    sources = []
    for step, reading in {"source": settings.source, **settings.sources}.items():
        source, columns = reading.source(store, step, settings.rows_per_part)
        planner.add_source(source, columns, carried=reading.read_as == "rows", from_nothing=not reading.path)
        sources.append(source)
    steps = {step: with_prompt_texts(fields) for step, fields in settings.steps.items()}
    planner.add_all(steps)
    last = list(planner.known)[-1]
    tables = settings.publish or {"default": PublishedTable()}
    published = {name: table.model_copy(update={"step": table.step or last}) for name, table in tables.items()}
    check_published(published, planner)
    carried = {step: artifact.carried for step, artifact in planner.known.items()}
    roles = {role: engine for step in planner.planned for role, engine in step.roles.items()}
    name = settings.name or "pipeline"
    settings = settings.model_copy(update={"name": name, "steps": steps, "engines": {**settings.engines, **roles}})
    return Plan(
        name,
        settings,
        store,
        sources[0],
        planner.planned,
        lambda manifests: published_dataset(name, store, manifests, published, carried, planner.planned),
        trunk=next(iter(published.values())).step,
        others=sources[1:],
        written=[table.model_dump_json() for table in published.values()],
        method="pipeline",
    )
