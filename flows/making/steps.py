"""Steps of a user's own as stages in a plan: ids are resolved, open settings filled in, columns checked before anything
is asked.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from synthmill.flows.making.plan import Source
from synthmill.flows.making.stage_list import stage_named
from synthmill.schemas.calls import Frozen, Sampling
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings, RunSettings
from synthmill.schemas.settings_files import explain, written_name
from synthmill.tasks.frames import ArtifactId, FrameStage, Reference, RunContext
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.carrying import carried_after, carried_by
from synthmill.tasks.running.job import Planned, Stage
from synthmill.tasks.running.outside import is_outside, load_stage, stage_settings

KINDS = {
    "preferences": ("prompt", "chosen", "rejected"),
    "pools": ("answers",),
    "conversations": ("messages",),
    "turns": ("history", "question"),
    "prompts": ("prompt",),
    "passages": ("title", "text"),
}
"""The kinds of rows by the columns that tell them apart, the most telling first (docs/pipelines.md)."""
FILLED_IN = frozenset(("seed", "rows_per_part", "embedder"))
"""What a stage takes from its run's settings where it leaves it open."""
OF_SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "logprobs")


@dataclass(frozen=True)
class KnownArtifact(ArtifactId):
    """A source or a step of a plan, with the columns of its rows. carried: those that go on with the rows;
    from_nothing: whether its rows were made, not read; unsaid: a function on the way that does not say its columns;
    most_answers: of a pool, for plans.
    """

    columns: pa.Schema
    carried: frozenset[str]
    from_nothing: bool = False
    unsaid: str = ""
    most_answers: int = 1


def kind_of(columns: Iterable[str]) -> str:
    """What rows with these columns are."""
    return next((kind for kind, telling in KINDS.items() if set(telling) <= set(columns)), "rows")


@dataclass
class StepPlanner:
    """Plans steps one after the other. engine_of: a role's engine, resolved. known: sources and steps by id."""

    settings: RunSettings
    engine_of: Callable[[str], EngineSettings]
    known: dict[str, KnownArtifact] = field(default_factory=dict)
    planned: list[Planned] = field(default_factory=list)

    def add_source(self, source: Source, columns: pa.Schema, *, carried: bool, from_nothing: bool = False) -> None:
        """carried: whether its columns are the user's own, and go on with the rows."""
        names = frozenset(columns.names) - {"id"} if carried else frozenset()
        self.known[source.step] = KnownArtifact(source.stage, source.key, source.step, columns, names, from_nothing)

    def add_all(self, steps: Mapping[str, Mapping[str, Any]]) -> None:
        """Plan steps as YAML has them. Raises InputError that names the step."""
        check_no_circle(steps)
        for number, (step, fields) in enumerate(steps.items()):
            self.add_written(step, fields, list(steps)[number:])

    def add_written(self, step: str, written: Mapping[str, Any], later: Iterable[str]) -> None:
        """Plan a step as YAML has it. later: ids of the steps behind it. Raises InputError that names the step."""
        fields = dict(written)
        name, origin = str(fields.pop("stage")), fields.pop("from", None)
        try:
            before = list(self.known)[-1 if self.planned else 0]
            source = self.artifact(origin or before, "from", later)
            self.add(step, self.stage_of(name, fields, later), source)
        except InputError as error:
            raise InputError(f"steps.{step}: {error.message}") from error

    def stage_of(self, name: str, fields: dict[str, Any], later: Iterable[str]) -> Stage:
        """A stage from what YAML says of it; `name` may be of a file: ./mine.py:Clean."""
        kind = stage_settings(name) if is_outside(name) else stage_named(name)
        for setting, info in kind.model_fields.items():
            written = info.alias if info.alias in fields else setting
            if references_in(info) and written in fields:
                fields[written] = self.resolved(fields[written], written, later)
        fields = with_sampling(kind, fields)
        if is_outside(name):
            open_settings = kind.model_fields.keys() & FILLED_IN - fields.keys()
            return load_stage(name, {**{each: getattr(self.settings, each) for each in open_settings}, **fields})
        try:
            stage: Stage = kind.model_validate(fields)  # type: ignore[assignment]
        except ValidationError as error:
            known = ", ".join(settings_written(kind))
            raise InputError(explain(error, unknown=f"the stage {name} has no such setting; it has {known}")) from error
        return stage

    def resolved(self, ids: Any, setting: str, later: Iterable[str]) -> Any:
        """Artifacts for the ids that a setting holds."""
        if isinstance(ids, list | tuple):
            return [self.artifact(each, setting, later) for each in ids]
        return self.artifact(ids, setting, later) if ids else ids

    def artifact(self, step: Any, setting: str, later: Iterable[str]) -> KnownArtifact:
        """A source or an earlier step by its id. Raises InputError."""
        if not isinstance(step, str):
            raise InputError(f"{setting} holds {step!r}; expected the id of a source or of an earlier step")
        if step in self.known:
            return self.known[step]
        if step in (later := list(later)):
            raise InputError(f"{setting} names {step}, which comes at or behind this step; write {step} before it")
        near = get_close_matches(step, [*self.known, *later], n=1)
        nearest = f", the nearest is {near[0]}" if near else ""
        raise InputError(f"{setting} names {step!r}; expected one of {', '.join(self.known)}{nearest}")

    def add(self, step: str, stage: Stage, source: ArtifactId) -> KnownArtifact:
        """Plan a stage, and what it needs before it. Raises InputError where the rows are of another kind."""
        origin = source if isinstance(source, KnownArtifact) else self.known[source.step]
        stage = filled_in(stage, self.settings, step, origin)
        if isinstance(stage, FrameStage):
            for name, before in stage.prerequisites().items():
                first = self.add(f"{step}-{name}", before, origin)
                stage = stage.model_copy(update={name: first.key})
        try:
            check_kind(stage, origin)
            stage.check_columns(origin.columns)
            output = self.output_of(stage, origin.columns)
        except InputError as error:
            raise InputError(error.message + undeclared(origin.unsaid)) from error
        carries = carried_by(origin.carried, stage, origin.columns, output)
        roles = {role: self.engine_of(role) for role in stage.needs_roles()} if isinstance(stage, Recipe) else {}
        context = RunContext(self.settings.embedder)
        planned = Planned(stage, roles, origin.key, step, context, sorted(carries))
        if same := next((each for each in self.planned if each.key == planned.key), None):
            raise InputError(f"{step} is the same as the step {same.step}; leave it out, and write `from: {same.step}`")
        self.planned.append(planned)
        columns = with_carried(output, origin.columns, carries)
        carried = carried_after(origin.carried, stage, origin.columns, output)
        unsaid = stage.name if getattr(stage, "columns_unknown", False) else origin.unsaid
        self.known[step] = KnownArtifact(
            stage.name, planned.key, step, columns, carried, origin.from_nothing, unsaid, most_answers(stage, origin)
        )
        return self.known[step]

    def output_of(self, stage: Stage, columns: pa.Schema) -> pa.Schema:
        """The columns of a stage's rows, made from rows with `columns` and from the other artifacts that it reads."""
        if not isinstance(stage, FrameStage):
            return stage.output_columns(columns)
        schemas = {artifact.key: artifact.columns for artifact in self.known.values()}
        others = [schemas[key] for _, key in stage.others() if key in schemas]
        return stage.columns_beside(columns, others)


def check_no_circle(steps: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError for a step whose rows would come from itself, directly or through others."""
    for step in steps:
        way = [step]
        while (origin := str(steps[way[-1]].get("from"))) in steps and origin not in way:
            way.append(origin)
        if origin == step:
            circle = " from ".join([*way, step])
            raise InputError(f"steps.{step}: its rows would come from itself ({circle}); begin one of them elsewhere")


def undeclared(function: str) -> str:
    """What to do where a column may be one of a function that does not say what it makes."""
    return (
        f"; {function}() does not say its columns: write `{function}.adds = (NAME, ...)` below it" if function else ""
    )


def references_in(info: Any) -> list[Reference]:
    return [mark for mark in info.metadata if isinstance(mark, Reference)]


def settings_written(kind: type[Frozen]) -> list[str]:
    """What a step may say of a stage, under the names that a file has for it."""
    own = [(name, info) for name, info in kind.model_fields.items() if name not in ("label", "sampling")]
    flat = OF_SAMPLING if "sampling" in kind.model_fields else ()
    return [
        *(written_name(name, info) for name, info in own),
        *(name for name in flat if name not in kind.model_fields),
    ]


def with_sampling(kind: type[Frozen], fields: dict[str, Any]) -> dict[str, Any]:
    """A step's fields with those of its sampling in one; a field that the stage has itself stays its own."""
    default = kind.model_fields["sampling"].default if "sampling" in kind.model_fields else None
    flat = {name: fields[name] for name in OF_SAMPLING if name in fields and name not in kind.model_fields}
    if default is None or not flat:
        return fields
    others = {name: value for name, value in fields.items() if name not in flat}
    return {**others, "sampling": {**default.model_dump(exclude={"seed"}), **flat}}


def most_answers(stage: Stage, origin: KnownArtifact) -> int:
    """The most answers of a pool behind a stage: those that it asks for, where its source has none."""
    if "answers" in origin.columns.names or not isinstance(stage, Recipe):
        return origin.most_answers
    return max(1, stage.requests_per_row())


def filled_in(stage: Stage, settings: RunSettings, step: str, origin: KnownArtifact) -> Stage:
    """A stage with what its run and its source decide where it leaves that open: seeds, rows per part, its label or
    column, whether equal prompts share an answer, and how many answers a plan counts.
    """
    values: dict[str, Any] = {"label": step, "shared": not origin.from_nothing, "most_answers": origin.most_answers}
    values |= {name: getattr(settings, name) for name in FILLED_IN}
    if "column" in type(stage).model_fields and not getattr(stage, "column", None):
        values["column"] = step
    update = {name: value for name, value in values.items() if name in type(stage).model_fields}
    update = {name: value for name, value in update.items() if name not in stage.model_fields_set}
    for name in type(stage).model_fields:
        value = getattr(stage, name)
        if isinstance(value, Sampling) and "seed" not in value.model_fields_set:
            update[name] = value.model_copy(update={"seed": settings.seed})
    return stage.model_copy(update=update)


def check_kind(stage: Stage, origin: KnownArtifact) -> None:
    """Raises InputError, with both kinds, where a stage needs columns that its source does not have."""
    needed = needed_columns(stage)
    missing = [name for name in needed if name not in origin.columns.names]
    if missing:
        raise InputError(
            f"{stage.name} takes {kind_of(needed)} ({', '.join(needed)}), and {origin.step} has "
            f"{kind_of(origin.columns.names)} ({', '.join(origin.columns.names)}): {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )


def needed_columns(stage: Stage) -> list[str]:
    """The columns without which a stage cannot read a row."""
    if isinstance(stage, Recipe):
        return [name for name, info in stage.takes.model_fields.items() if info.is_required()]
    return list(stage.needs)


def with_carried(columns: pa.Schema, before: pa.Schema, carries: Iterable[str]) -> pa.Schema:
    """The columns of a step's rows, those that go on with them included."""
    carried = [before.field(name) for name in sorted(carries) if name in before.names and name not in columns.names]
    return pa.schema([*columns, *carried])
