"""Stages that ask a model about rows of any columns: what was asked, and what was answered.

A row is a prompt with an answer in a column beside it, or a chat in `messages`, whose last answer counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Message
from synthmill.schemas.column_names import check_columns, check_free
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.messages import content_in, known_role, message_in
from synthmill.schemas.rows import Dropped, TableRow
from synthmill.tasks.recipe import Recipe

ANSWERS = ("completion", "response", "answer", "output", "reference")
"""The columns that an answer may stand in, the first that is there, where no setting names one."""


class RowChat(NamedTuple):
    """What a model was asked, a system message included, and its answer; empty where there is none."""

    messages: tuple[Message, ...]
    answer: str

    @property
    def instruction(self) -> str:
        """What was asked as one text: of a single message, its content."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages)


class RowRecipe(Recipe[TableRow, TableRow]):
    """Rows -> the same with new columns. prompt: a column of texts or messages; answer: of texts."""

    roles: ClassVar = ("judge",)
    adds_own_columns: ClassVar = True
    keeps_columns: ClassVar = True
    needs_answer: ClassVar[bool] = True

    prompt: str = "prompt"
    answer: str = Field("", description=f"default: the first there is of {', '.join(ANSWERS)}; of a chat, its last one")

    def new_columns(self) -> pa.Schema:
        raise TypeError(f"{type(self).__name__} must define new_columns()")

    def columns_read(self, names: Sequence[str]) -> list[str]:
        """The columns that hold what was asked and answered. Raises InputError where there are none."""
        asked_by = f"stage {self.name}"
        answer = self.answer or next((name for name in ANSWERS if name in names), "")
        if self.prompt not in names and "messages" in names and not self.answer:
            return ["messages"]
        check_columns(asked_by, [self.prompt, *([self.answer] if self.answer else [])], names)
        if self.needs_answer and not answer:
            raise InputError(f"{asked_by}: no column holds answers; name it in `answer`, or call it {ANSWERS[0]}")
        return [name for name in ("system", self.prompt, answer) if name in names]

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        return pa.schema([("id", pa.string()), ("parent_id", pa.string()), *self.new_columns()])

    def check_columns(self, columns: pa.Schema) -> None:
        self.columns_read(columns.names)
        check_free(f"stage {self.name}", self.new_columns().names, columns.names)

    def read(self, table: pa.Table) -> tuple[list[TableRow], list[Dropped]]:
        names = self.columns_read(table.column_names)
        parents = table["parent_id"].to_pylist() if "parent_id" in table.column_names else [""] * table.num_rows
        rows = zip(table["id"].to_pylist(), parents, table.select(names).to_pylist(), strict=True)
        return [TableRow(id=row_id, parent_id=parent or "", values=values) for row_id, parent, values in rows], []

    def to_table(self, rows: Sequence[TableRow]) -> pa.Table:
        fields = [{"id": row.id, "parent_id": row.parent_id, **row.values} for row in rows]
        return pa.Table.from_pylist(fields, self.output_columns(pa.schema([])))

    def chat_of(self, row: TableRow) -> RowChat:
        """Raises Drop: empty_prompt, empty_answer, bad_messages."""
        chat = read_chat(row.values, self.prompt, self.answer)
        if not any(message.role == "user" and message.content.strip() for message in chat.messages):
            raise Drop("empty_prompt")
        if self.needs_answer and not chat.answer.strip():
            raise Drop("empty_answer")
        return chat

    def filled(self, row: TableRow, **values: Any) -> TableRow:
        return TableRow(id=row.id, parent_id=row.parent_id, values=values)


def read_chat(values: Mapping[str, Any], prompt: str, answer: str = "") -> RowChat:
    """A row's chat; what it lacks is empty. Raises Drop for messages that are none."""
    if prompt not in values:
        messages = messages_of(values.get("messages"))
        if messages and messages[-1].role == "assistant":
            return RowChat(messages[:-1], messages[-1].content)
        return RowChat(messages, "")
    asked = values[prompt]
    messages = (Message(role="user", content=asked or ""),) if isinstance(asked, str | None) else messages_of(asked)
    if isinstance(values.get("system"), str) and values["system"] and prompt != "system":
        messages = (Message(role="system", content=values["system"]), *messages)
    return RowChat(messages, answer_of(values, answer))


def answer_of(values: Mapping[str, Any], answer: str = "") -> str:
    """A row's answer: of the column that is named, else the first of ANSWERS that is there, else a chat's last message.
    Raises Drop for messages that are none.
    """
    answer = answer or next((name for name in ANSWERS if name in values), "")
    answered = values.get(answer) if answer else read_chat(values, "").answer
    if isinstance(answered, list):
        return "\n".join(message.content for message in messages_of(answered))
    return answered if isinstance(answered, str) else ""


def messages_of(value: Any) -> tuple[Message, ...]:
    """A column of messages as ours. Raises Drop."""
    messages = map(message_in, value if isinstance(value, list) else ())
    return tuple(Message(role=known_role(each), content=content_in(each) or "") for each in messages)
