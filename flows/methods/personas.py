"""Prompts that different people would write: a persona of a file and further attributes are dealt to each.

Source: docs/papers.md#personas.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.reading import rows_from_nothing
from synthmill.flows.making.row_chain import RowChain
from synthmill.flows.methods._new_prompts import (
    Manifests,
    as_chats,
    counts_of,
    plan_prompts,
    resolved_roles,
)
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.rows import Dropped, Row, TableRow
from synthmill.schemas.settings import ENGINES, EngineSettings, StageSampling
from synthmill.schemas.texts import normalised
from synthmill.storage.artifacts import CALLS
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.asking.ask import first_draw
from synthmill.tasks.asking.attributes import Attribute, Attributes
from synthmill.tasks.generators.novel_prompts import NovelPrompts
from synthmill.tasks.generators.respond import Respond
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.texts.prompt_faults import marked_prompt

PERSONA, KIND = "persona", "kind"
OURS = ("id", "parent_id", PERSONA, KIND, CALLS)
KINDS = {
    "an instruction": 1.0,
    "a question that takes knowledge of a subject": 1.0,
    "a problem of mathematics to solve": 1.0,
    "a problem that takes reasoning to solve": 1.0,
}


class PersonaTask(Row):
    """A row with the prompt that its persona would write."""

    prompt: str
    source: str = "personas"


class PersonaTasks(Recipe[TableRow, PersonaTask]):
    """A row with `persona`, `kind` and any attributes -> the same with a `prompt`. Every further column is shown as an
    attribute.

    Drops: no_persona; after `attempts` tries persona_given_back, and what is no prompt (prompt_faults.py).
    """

    name: ClassVar = "persona_tasks"
    version: ClassVar = "3"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"personas/task": ("persona", "kind", "attributes")}
    keeps_columns: ClassVar = True

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError where there is no persona, or no kind."""
        if missing := [name for name in (PERSONA, KIND) if name not in columns.names]:
            raise InputError(f"persona_tasks needs the column {missing[0]}; found {', '.join(columns.names)}")

    def read(self, table: pa.Table) -> tuple[list[TableRow], list[Dropped]]:
        self.check_columns(table.schema)
        names = [name for name in table.column_names if name not in ("id", "parent_id", CALLS)]
        values = table.select(names).to_pylist()
        ids = table["id"].to_pylist()
        return [TableRow(id=row_id, values=row) for row_id, row in zip(ids, values, strict=True)], []

    def steps(self, row: TableRow) -> Steps[PersonaTask]:
        persona = str(row.values[PERSONA] or "").strip()
        if not persona:
            raise Drop("no_persona: the row's persona is empty")
        attributes = {name: value for name, value in row.values.items() if name not in OURS and value is not None}

        def parse(completion: Completion) -> str:
            prompt = marked_prompt(completion, (persona,))
            if normalised(persona) in normalised(prompt):
                raise Drop("persona_given_back: it repeated the description; write what the person would write")
            return prompt

        request = Request(
            role="teacher",
            messages=load("personas/task").render(persona=persona, kind=row.values[KIND], attributes=attributes),
            sampling=self.sampling,
            sample=first_draw(row.id),  # a persona comes again where there are more rows than personas
        )
        prompt = yield from ask_until(request, self.attempts, parse)
        return PersonaTask(id=row.id, parent_id=row.parent_id, prompt=prompt)


class PersonaSettings(PublishSettings):
    """One run of `personas`: personas of a file, attributes -> prompts, with responses unless `respond` is false."""

    previewed: ClassVar = "count"

    personas: LocalPath = Field(min_length=1, description="a file of rows, of which each prompt gets one")
    persona_column: str = Field("persona", description="the column that describes a person")
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    count: int = Field(1000, ge=1, description="prompts to ask for; each is a call")
    kinds: dict[str, float] = Field(KINDS, min_length=1, description="what is written, with weights")
    attributes: dict[str, Attribute] = Field({}, description="further columns, dealt as the stage `attributes` does")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    tasks: StageSampling = StageSampling()
    overlap: float = Field(0.7, gt=0, le=1, description="ROUGE-L from which a prompt is too like an earlier one")
    respond: bool = True
    responses: StageSampling = StageSampling(max_tokens=2048)

    @field_validator("kinds", mode="before")
    @classmethod
    def from_list(cls, kinds: Any) -> Any:
        return dict.fromkeys(kinds, 1.0) if isinstance(kinds, list | tuple) else kinds

    @model_validator(mode="after")
    def has_columns_of_its_own(self) -> "PersonaSettings":
        taken = {*OURS, *PersonaTask.model_fields, "response", "finish_reason"}
        if names := sorted(taken & self.attributes.keys()):
            raise ValueError(f"attributes: {names[0]!r} is a column of this method already; choose another name")
        return self

    def columns(self) -> dict[str, Attribute]:
        """All columns that are dealt."""
        fields: Mapping[str, Any] = {
            PERSONA: {"persons": self.personas, "column": self.persona_column},
            KIND: {"categories": self.kinds},
        }
        return {**{name: Attribute.model_validate(field) for name, field in fields.items()}, **self.attributes}


def plan(settings: PersonaSettings) -> Plan:
    """Resolve the engine and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolved_roles(settings, store, "teacher")
    settings = settings.model_copy(update={"engines": roles})
    source, columns = rows_from_nothing(store, "", settings.count, settings.rows_per_part)
    rows = settings.rows_per_part
    stages = RowChain(source.key, columns).then(
        roles,
        Attributes(columns=settings.columns(), seed=settings.seed, rows_per_part=rows),
        PersonaTasks(sampling=settings.sampling(settings.tasks), attempts=settings.attempts),
        NovelPrompts(overlap=settings.overlap, most_words=1000, ascii_start=False, programs=True, rows_per_part=rows),
        *([Respond(sampling=settings.sampling(settings.responses))] if settings.respond else []),
    )
    texts = ("prompt", "response") if settings.respond else ("prompt",)

    def publish(rows: RowStream, manifests: Manifests) -> Dataset:
        return dataset(rows, tuple(settings.attributes))

    return plan_prompts("personas", settings, store, source, stages, publish, texts=texts)


def dataset(rows: RowStream, attributes: Sequence[str]) -> Dataset:
    """Conversations where there are responses, prompts where there are none."""
    about = "what a persona would ask, with the persona and what else was dealt to it"
    if "response" in rows.schema:
        tables = {"sft": Table.of(rows.map(as_chats), "conversations", about)}
    else:
        tables = {"prompts": Table.of(rows, "prompts", about)}
    figures = [counts_of(rows, f"Prompts by {name}", name) for name in (KIND, *attributes)]
    return Dataset("Personas", "Prompts that different people would write.", tables, figures=figures)
