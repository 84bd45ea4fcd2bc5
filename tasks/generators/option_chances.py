"""The chances that a model gives each of a few options, under several prompts of the same input.

Source: docs/papers.md#prompt-choice.
"""

from collections.abc import Generator, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from synthmill.schemas.calls import SCORING, Completion, Message, Request, Sampling
from synthmill.schemas.column_names import check_free
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Dropped, TableRow
from synthmill.tasks.asking.own_prompts import PromptText
from synthmill.tasks.asking.templates import template_of
from synthmill.tasks.engines.scored_answers import log_probability
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.scorers.labels import LEAST_MASS, LeastMass, chances_of, one_token

CHANCES, FAULTS = "chances", "chance_faults"
Options = Annotated[tuple[str, ...], Field(min_length=2, max_length=100)]


class OptionChances(Recipe[TableRow, TableRow]):
    """Rows -> the same with `chances`: per template of `templates`, in their order, a list of the chances of the
    `options`, their sum 1; an empty list, and a reason in `chance_faults`, where there are none.

    Options of one letter or digit each are read from the logprobs of the answer's first token, so the template has to
    ask for a letter; where an engine gives no logprobs, the letter that it answers has chance 1. Other options are
    scored as given answers, which the engine must be able to do. A row without chances under any template is dropped as
    `no_chances`; one whose column is null, as `null_column`.
    """

    name: ClassVar = "option_chances"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    adds_own_columns: ClassVar = True
    keeps_columns: ClassVar = True

    sampling: Sampling = one_token(0)
    role: str = Field("teacher", min_length=1)
    templates: dict[str, PromptText] = Field(min_length=1, description="name -> a template's text, or a .jinja file")
    options: Options
    least_mass: LeastMass = LEAST_MASS

    @model_validator(mode="after")
    def options_differ(self) -> Self:
        if len({option.strip() for option in self.options}) < len(self.options) or not all(
            map(str.strip, self.options)
        ):
            raise ValueError(f"options: {', '.join(self.options)}; expected different texts, none of them empty")
        return self

    @property
    def are_letters(self) -> bool:
        return all(len(option) == 1 for option in self.options)

    def needs_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def requests_per_row(self) -> int:
        return len(self.templates) * (1 if self.are_letters else len(self.options))

    def identity(self, engines: Any) -> dict[str, Any]:
        """With the order of the templates, which decides the columns."""
        identity = super().identity(engines)
        identity["settings"]["templates"] = [[name, text] for name, text in self.templates.items()]
        return identity

    def check_columns(self, columns: pa.Schema) -> None:
        check_free(f"stage {self.name}", (CHANCES, FAULTS), columns.names)
        for name, text in self.templates.items():
            template_of(text).names.check(columns, f"the template {name!r}")

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        texts = [pa.field(name, pa.string()) for name in ("id", "parent_id")]
        lists = {CHANCES: pa.list_(pa.list_(pa.float64())), FAULTS: pa.list_(pa.string())}
        return pa.schema([*texts, *(pa.field(name, kind) for name, kind in lists.items())])

    def read(self, table: pa.Table) -> tuple[list[TableRow], list[Dropped]]:
        self.check_columns(table.schema)
        names = [template_of(text).names for text in self.templates.values()]
        if not any(name.whole_row for name in names):
            used = {"id", "parent_id"}.union(*(name.columns for name in names))
            table = table.select([name for name in table.column_names if name in used])
        rows = table.to_pylist()
        return [TableRow(id=row["id"], parent_id=row.get("parent_id") or "", values=row) for row in rows], []

    def to_table(self, rows: Sequence[TableRow]) -> pa.Table:
        fields = [{"id": row.id, "parent_id": row.parent_id, **row.values} for row in rows]
        return pa.Table.from_pylist(fields, schema=self.output_columns(pa.schema([])))

    def steps(self, row: TableRow) -> Steps[TableRow]:
        prompts = [template_of(text).messages(row.values) for text in self.templates.values()]
        chances, faults = yield from (self.first_tokens(prompts) if self.are_letters else self.given_answers(prompts))
        if not any(chances):
            raise Drop(f"no_chances: {faults[0]}")
        return TableRow(id=row.id, parent_id=row.parent_id, values={CHANCES: chances, FAULTS: faults})

    def first_tokens(self, prompts: Sequence[tuple[Message, ...]]) -> Generator[list[Request], list[Completion], Any]:
        """(chances, faults) per prompt, by the probabilities of one token."""
        completions = yield [self.request(messages, sampling=self.sampling) for messages in prompts]
        read = [chances_of(completion, "".join(self.options), self.least_mass) for completion in completions]
        faults = [
            "" if chances else completion.error or f"it answered {completion.text.strip()[:40]!r}"
            for chances, completion in zip(read, completions, strict=True)
        ]
        return [[chances[option] for option in self.options] if chances else [] for chances in read], faults

    def given_answers(self, prompts: Sequence[tuple[Message, ...]]) -> Generator[list[Request], list[Completion], Any]:
        """(chances, faults) per prompt, by the probabilities of whole options."""
        completions = yield [
            self.request(messages, sampling=SCORING, scored=option) for messages in prompts for option in self.options
        ]
        chances, faults = [], []
        for place in range(0, len(completions), len(self.options)):
            try:
                logs = np.array([log_probability(each) for each in completions[place : place + len(self.options)]])
                weights = np.exp(logs - logs.max())
                chances.append((weights / weights.sum()).tolist())
                faults.append("")
            except Drop as drop:
                chances.append([])
                faults.append(drop.message)
        return chances, faults

    def request(self, messages: tuple[Message, ...], **fields: Any) -> Request:
        return Request(role=self.role, messages=messages, optional=True, **fields)
