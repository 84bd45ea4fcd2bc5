"""WPO: how likely the model that is trained would have written both answers of a pair itself.

Source: docs/papers.md#wpo.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import SCORING, Message, Request, Sampling
from synthmill.schemas.column_names import check_columns, check_free
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Dropped, TableRow
from synthmill.tasks.engines.scored_answers import log_probability
from synthmill.tasks.recipe import Recipe, Steps

READS = ("prompt", "chosen", "rejected")
MAKES = ("chosen_logprob", "rejected_logprob", "wpo_weight")


class WpoWeights(Recipe[TableRow, TableRow]):
    """Pairs -> the same with `wpo_weight`: what a pair's loss is multiplied by, 0 to 1, and the mean log probability of
    a token of each answer under the model that is trained (`role`). It is the product of both answers' mean token
    probabilities (geometric), at most 1: pairs that the model would hardly write count little.

    Drops: not_text, and what an engine gives instead of log probabilities.
    """

    name: ClassVar = "wpo_weights"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)
    adds_own_columns: ClassVar = True
    keeps_columns: ClassVar = True

    sampling: Sampling = SCORING
    role: str = Field("student", min_length=1, description="the model that is trained; it must score given answers")

    def needs_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def requests_per_row(self) -> int:
        return 2

    def check_columns(self, columns: pa.Schema) -> None:
        check_columns(f"stage {self.name}", READS, columns.names)
        check_free(f"stage {self.name}", MAKES, columns.names)

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        texts = [pa.field(name, pa.string()) for name in ("id", "parent_id")]
        return pa.schema([*texts, *(pa.field(name, pa.float64()) for name in MAKES)])

    def read(self, table: pa.Table) -> tuple[list[TableRow], list[Dropped]]:
        self.check_columns(table.schema)
        names = [name for name in (*READS, "system", "parent_id") if name in table.column_names]
        rows = table.select(["id", *names]).to_pylist()
        return [TableRow(id=row.pop("id"), parent_id=row.pop("parent_id", "") or "", values=row) for row in rows], []

    def to_table(self, rows: Sequence[TableRow]) -> pa.Table:
        fields = [{"id": row.id, "parent_id": row.parent_id, **row.values} for row in rows]
        return pa.Table.from_pylist(fields, schema=self.output_columns(pa.schema([])))

    def steps(self, row: TableRow) -> Steps[TableRow]:
        for name in READS:
            if not isinstance(text := row.values[name], str) or not text.strip():
                raise Drop(f"not_text: {name} is {text!r:.40}; expected a text")
        messages = self.messages(row.values)
        completions = yield [
            Request(role=self.role, messages=messages, sampling=self.sampling, scored=row.values[side])
            for side in READS[1:]
        ]
        chosen, rejected = (log_probability(completion, per_token=True) for completion in completions)
        weight = math.exp(min(chosen + rejected, 0.0))
        values = dict(zip(MAKES, (chosen, rejected, weight), strict=True))
        return TableRow(id=row.id, parent_id=row.parent_id, values=values)

    @staticmethod
    def messages(values: dict[str, Any]) -> tuple[Message, ...]:
        system = values.get("system")
        before = (Message(role="system", content=system),) if system else ()
        return (*before, Message(role="user", content=values["prompt"]))
