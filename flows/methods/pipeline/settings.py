"""What a user writes of a pipeline: sources, steps, and what is published."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import ConfigDict, Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator

from synthmill.flows.making.plan import Source, file_source, table_source
from synthmill.flows.making.reading import READ_AS, rows_from_nothing
from synthmill.flows.methods import pipeline_name
from synthmill.schemas.errors import InputError
from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.rows import arrow_schema
from synthmill.schemas.secrecy import secret_in
from synthmill.schemas.settings import FileSettings, RunSettings, TableSettings
from synthmill.schemas.settings_files import read_yaml
from synthmill.storage.artifacts import Store
from synthmill.storage.published.by_columns import TableForm
from synthmill.tasks.running.table_source import ROWS

NAME = r"^([A-Za-z][\w-]*)?$"
ID = re.compile(r"[^\W\d_][\w-]*")
SOURCE_ID = re.compile(r"[^\W\d_][\w.-]*")
"""A file's name may be the id of a source: what is compared with it says so."""


class PipelineSource(FileSettings):
    """Where rows come from: a file, as every FileSettings; `rows: N` makes N rows from nothing, for `attributes`.

    May be written as the path. Its settings besides are those of what it is read as.
    """

    model_config = ConfigDict(extra="allow")

    path: LocalPath = ""
    read_as: Literal[
        "rows", "instructions", "questions", "known_prompts", "bench_rows", "turns", "passages", "documents"
    ] = Field("rows", description="rows: any columns, all kept; others: as the named flows read them")
    rows_per_part: int | None = Field(None, ge=1, description="default: as the run's")
    rows: int | None = Field(None, ge=1, description="so many rows from nothing, instead of a file")

    @model_validator(mode="after")
    def is_readable(self) -> "PipelineSource":
        if bool(self.path) == (self.rows is not None):
            raise ValueError("expected a path, or a number of rows from nothing")
        if self.path:
            self.file_settings()
        elif self.model_extra:
            raise ValueError(f"{', '.join(self.model_extra)} has no effect on rows from nothing; leave it out")
        return self

    def file_settings(self) -> FileSettings:
        """How the file is read."""
        settings = TableSettings if self.read_as == ROWS else READ_AS[self.read_as].settings
        return settings(path=self.path, limit=self.limit, license=self.license, **(self.model_extra or {}))

    def source(self, store: Store, step: str, rows_per_part: int) -> tuple[Source, pa.Schema]:
        """The source and its columns. Raises InputError where the file cannot be read."""
        rows_per_part = self.rows_per_part or rows_per_part
        if self.rows is not None:
            return rows_from_nothing(store, step, min(self.rows, self.limit or self.rows), rows_per_part)
        file = self.file_settings()
        if isinstance(file, TableSettings):
            return table_source(store, file, rows_per_part, step)
        kind = READ_AS[self.read_as].kind(file)
        return file_source(store, file, rows_per_part, kind, step), arrow_schema(kind.model)


class PublishedTable(TableForm):
    """One configuration of the dataset: the rows of a step, in the form that their kind has for trainers."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    step: str = Field("", alias="from", description="a step; default: the last")


class PipelineSettings(RunSettings):
    """A pipeline of one's own. `config` may name a YAML file of these settings; what stands beside it wins."""

    name: str = Field("", pattern=NAME, description="of the flow and its dataset; default: the file's name")
    source: PipelineSource
    sources: dict[str, PipelineSource] = Field({}, description="further ones, which steps name by their ids")
    steps: dict[str, dict[str, Any]] = Field(description="id -> {stage: NAME, from: ID, settings of the stage}")
    publish: dict[str, PublishedTable] = Field(
        {}, description="configuration -> table; default: the last step's rows, as `default`"
    )
    license: str = Field("", description="of the dataset; default: the most restrictive one of its sources")

    @model_validator(mode="before")
    @classmethod
    def read_config(cls, values: Any) -> Any:
        """The settings of the file that `config` names, with its name as theirs."""
        if not isinstance(values, Mapping) or "config" not in values:
            return values
        path = Path(str(values["config"]))
        try:
            written = read_yaml(path)
        except InputError as error:
            raise ValueError(error.message) from error
        return {
            "name": pipeline_name(path),
            **written,
            **{name: value for name, value in values.items() if name != "config"},
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """With `config`, beside which nothing else is needed: Prefect checks a deployment's settings by it."""
        reference = handler(core)
        schema = handler.resolve_ref_schema(reference)
        schema["properties"]["config"] = {"type": "string", "title": "Config", "description": "a YAML file of these"}
        schema.pop("required", None)
        return reference

    @field_validator("sources", "steps", "publish", mode="before")
    @classmethod
    def have_ids(cls, named: Any, info: ValidationInfo) -> Any:
        """Raises ValueError for an id that templates, folders and Prefect could not use."""
        for name in named if isinstance(named, Mapping) else ():
            if not isinstance(name, str):
                raise ValueError(
                    f"{name!r} is no id; write it in quotes (YAML reads yes, no and numbers as what they are)"
                )
            if not (SOURCE_ID if info.field_name == "sources" else ID).fullmatch(name):
                raise ValueError(f"{name!r} is no id; expected letters, digits, _ and -, and a letter first")
        return named

    @field_validator("steps", mode="before")
    @classmethod
    def steps_name_stages(cls, steps: Any) -> Any:
        if not steps or not isinstance(steps, Mapping):
            raise ValueError("there are no steps; expected id: {stage: NAME, ...}")
        for step, fields in steps.items():
            if not isinstance(fields, Mapping) or not isinstance(fields.get("stage"), str):
                raise ValueError(f"{step} names no stage; expected {step}: {{stage: NAME, ...}}")
            if place := secret_in(fields):
                raise ValueError(
                    f"{step}.{place} holds a secret; settings are written down, so put it in the environment"
                )
        return steps

    @model_validator(mode="after")
    def ids_differ(self) -> "PipelineSettings":
        sources = ["source", *self.sources]
        if same := sorted(set(sources) & set(self.steps)):
            raise ValueError(f"{same[0]} is a source and a step; rename one of them")
        return self
