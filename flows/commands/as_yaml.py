"""`synthmill run FLOW --as-yaml`: a flow's steps as a pipeline's file, to begin one's own from."""

from collections.abc import Mapping
from typing import Any

import yaml

from synthmill.flows.making.plan import Plan, Source
from synthmill.flows.making.steps import OF_SAMPLING, references_in
from synthmill.flows.methods.pipeline.settings import SOURCE_ID
from synthmill.schemas.calls import Sampling
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings, RunSettings
from synthmill.tasks.frames import Reference
from synthmill.tasks.running.job import Planned, Stage

OWN_SETTINGS = ("engines",)
FILLED_IN = ("embedder_identity",)


def show_as_yaml(plan: Plan) -> None:
    """Print the pipeline whose steps have a plan's keys. Raises InputError for rows that no file holds."""
    print(yaml.safe_dump(pipeline_of(plan), sort_keys=False, allow_unicode=True, width=110), end="")


def pipeline_of(plan: Plan) -> dict[str, Any]:
    """The settings of a pipeline that makes what a plan makes."""
    if plan.method == "pipeline":
        raise InputError(f"{plan.flow} is a pipeline already; its own file is the one to begin yours from")
    for source in plan.sources:
        if source.written is None:
            raise InputError(
                f"{plan.flow} begins with rows of its own settings ({source.stage}), which no file of a pipeline holds"
            )
    ids = {key: "source" if key == plan.source.key else step for key, step in plan.source_steps.items()}
    ids |= {key: name for key, name in names_of_sources(plan).items() if key in ids and SOURCE_ID.fullmatch(name)}
    ids |= {step.key: step.step for step in plan.stages}
    rows_per_part = plan.settings.rows_per_part
    pipeline: dict[str, Any] = {"source": written_source(plan.source, rows_per_part)}
    if plan.others:
        pipeline["sources"] = {ids[source.key]: written_source(source, rows_per_part) for source in plan.others}
    engines = {role: engine for step in plan.stages for role, engine in step.roles.items()}
    if engines:
        pipeline["engines"] = {role: written_engine(engine) for role, engine in engines.items()}
    pipeline |= run_settings(plan.settings)
    before = plan.source.key
    steps: dict[str, Any] = {}
    for step in plan.stages:
        origin = {} if step.source_key == before else {"from": ids[step.source_key]}
        steps[step.step] = {"stage": step.stage.name, **origin, **fields_of(step, plan.settings, ids)}
        before = step.key
    return {**pipeline, "steps": steps, "publish": {"default": {"from": plan.trunk}}}


def names_of_sources(plan: Plan) -> dict[str, str]:
    """What stages call the further sources that they read, by key; such a name is a part of the stages' own keys."""
    names: dict[str, str] = {}
    for stage in (step.stage for step in plan.stages):
        for field, info in type(stage).model_fields.items():
            if [reference.form for reference in references_in(info)] == ["named"]:
                names |= {key: name for name, key in getattr(stage, field)}
    return names


def written_source(source: Source, rows_per_part: int) -> dict[str, Any]:
    """A source without what it has in common with the run."""
    written = dict(source.written or {})
    return {name: value for name, value in written.items() if (name, value) != ("rows_per_part", rows_per_part)}


def written_engine(engine: EngineSettings) -> Any:
    fields = engine.model_dump(mode="json", exclude_defaults=True)
    spec = {name: fields.pop(name, None) for name in ("kind", "model", "base_url")}
    return {"spec": engine.spec, **fields} if fields and spec else engine.spec


def run_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings of every run that differ from their defaults."""
    names = [name for name in RunSettings.model_fields if name not in OWN_SETTINGS]
    return settings.model_dump(mode="json", include=set(names), exclude_defaults=True)


def fields_of(step: Planned, settings: RunSettings, ids: Mapping[str, str]) -> dict[str, Any]:
    """A stage's settings as a step has them: without defaults, and without what a run fills in."""
    stage = step.stage
    values = {"seed": settings.seed, "rows_per_part": settings.rows_per_part, "embedder": settings.embedder}
    filled = {**values, "label": step.step, "column": step.step}
    fields: dict[str, Any] = {}
    for name, info in type(stage).model_fields.items():
        value = getattr(stage, name)
        if name in FILLED_IN or (name in filled and value == filled[name]):
            continue
        if isinstance(value, Sampling):
            fields |= written_sampling(stage, name, value, settings.seed)
        elif name in filled or value != info.get_default(call_default_factory=True):
            references = references_in(info)
            dumped = stage.model_dump(mode="json", include={name}, exclude_defaults=name not in filled)
            fields[name] = references_by_id(references[0], value, ids) if references else dumped.get(name, value)
    return fields


def references_by_id(reference: Reference, value: Any, ids: Mapping[str, str]) -> Any:
    """A setting's artifacts by the ids of their steps; those that another run made stay as they are."""
    if reference.form == "key":
        return ids.get(value, value)
    if reference.form == "artifact":
        return ids.get(value[1], list(value))
    return [ids.get(key, [name, key]) for name, key in value]


def written_sampling(stage: Stage, name: str, sampling: Sampling, seed: int) -> dict[str, Any]:
    """How a stage draws, flat where it is the one that a step writes flat."""
    default = type(stage).model_fields[name].get_default(call_default_factory=True)
    chosen = {
        field: getattr(sampling, field) for field in OF_SAMPLING if getattr(sampling, field) != getattr(default, field)
    }
    chosen |= {} if sampling.seed == seed else {"seed": sampling.seed}
    chosen = {field: list(value) if isinstance(value, tuple) else value for field, value in chosen.items()}
    clashes = chosen.keys() & type(stage).model_fields.keys() or "seed" in chosen
    return chosen if name == "sampling" and not clashes else {name: chosen} if chosen else {}
