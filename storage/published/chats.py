"""Chats as columns: all messages of a column have the same fields, so that readers find no key in some rows only.

A message is {role, content}, with `reasoning_content`, `tool_calls`, `tool_call_id` and `name` where a message of the
rows has one; the arguments of a call are a JSON text, as OpenAI has them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import orjson
import polars as pl

from synthmill.storage.published.row_streams import Columns, RowStream
from synthmill.storage.published.rows import REASONING

CHAT = "messages"
CALL = pl.Struct(
    {"id": pl.String, "type": pl.String, "function": pl.Struct({"name": pl.String, "arguments": pl.String})}
)
FIELDS: Mapping[str, pl.DataType] = {
    "role": pl.String(),
    "content": pl.String(),
    REASONING: pl.String(),
    "tool_calls": pl.List(CALL),
    "tool_call_id": pl.String(),
    "name": pl.String(),
}
"""The fields of a message that have a type of their own; others are JSON texts."""
ALWAYS = ("role", "content")
Message = dict[str, Any]
Chat = list[Message]


def as_columns(rows: RowStream) -> RowStream:
    """Rows whose `messages`, where they are JSON texts (as datasets of before version 0.3 hold chats with calls), are
    structs.
    """

    @cache
    def fields() -> list[str]:
        texts = rows.batches([CHAT]) if rows.schema.get(CHAT) == pl.List(pl.String) else ()
        return fields_in(text for batch in texts for text in batch[CHAT].explode().drop_nulls().to_list())

    def structured(batch: pl.DataFrame) -> pl.DataFrame:
        if batch.schema.get(CHAT) != pl.List(pl.String) or not fields():
            return batch
        chats = [[orjson.loads(text) for text in chat or ()] for chat in batch[CHAT].to_list()]
        return batch.with_columns(chat_column(CHAT, chats, fields()))

    def read(columns: Columns) -> Iterator[pl.DataFrame]:
        return map(structured, rows.batches(columns))

    def schema() -> pl.Schema:
        known = rows.schema
        return structured(pl.DataFrame(schema=known)).schema if known.get(CHAT) == pl.List(pl.String) else known

    return RowStream(read, lambda: rows.height, schema)


def fields_in(texts: Iterator[str]) -> list[str]:
    """The fields that any message has; none where a text is no message in JSON."""
    names: dict[str, None] = {}
    for text in texts:
        try:
            message = orjson.loads(text)
        except ValueError:
            return []
        if not isinstance(message, dict) or "role" not in message:
            return []
        names |= dict.fromkeys(name for name, value in message.items() if value not in (None, "", []))
    return message_fields(names) if names else []


def message_fields(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Fields in the order in which messages have them, role and content always."""
    return [name for name in FIELDS if name in names or name in ALWAYS] + [n for n in names if n not in FIELDS]


def chat_column(name: str, chats: Sequence[Sequence[Mapping[str, Any]] | None], fields: Sequence[str]) -> pl.Series:
    """Chats as a column whose messages all have these fields."""
    values = [None if chat is None else [message_row(message, fields) for message in chat] for chat in chats]
    return pl.Series(name, values, chat_type(fields))


def chat_type(fields: Sequence[str], **others: pl.DataType) -> pl.List:
    """The type of chats whose messages have these fields, and others of some type."""
    return pl.List(pl.Struct({field: FIELDS.get(field, pl.String()) for field in fields} | others))


def message_row(message: Mapping[str, Any], fields: Sequence[str]) -> Message:
    """A message with exactly these fields, each in its column's type."""
    row: Message = {field: as_text(message.get(field)) for field in fields if field != "tool_calls"}
    row["content"] = row["content"] or ""
    if "tool_calls" in fields:
        row["tool_calls"] = [call_row(call) for call in message.get("tool_calls") or ()] or None
    return row


def call_row(call: Mapping[str, Any]) -> Message:
    """A call in OpenAI's form."""
    function = call.get("function") or {}
    arguments = as_text(function.get("arguments"))
    return {
        "id": call.get("id"),
        "type": call.get("type") or "function",
        "function": {"name": function.get("name"), "arguments": arguments},
    }


def as_text(value: Any) -> str | None:
    """A text as it is, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_message(message: Any) -> Message:
    """A message of a chat, which may be JSON."""
    return dict(json.loads(message) if isinstance(message, str) else message)


def chats_in(column: pl.Series) -> list[Chat]:
    """A column's chats, their messages with the fields that they use: role and content always."""
    return [[used(message) for message in chat or ()] for chat in column.to_list()]


def used(message: Mapping[str, Any]) -> Message:
    """A message without its empty fields."""
    fields = {
        name: [used_call(call) for call in value] if name == "tool_calls" else value
        for name, value in message.items()
        if value not in (None, [])
    }
    return {**fields, "role": message["role"], "content": message["content"] or ""}


def used_call(call: Mapping[str, Any]) -> Message:
    return {name: value for name, value in call.items() if value is not None}


def parse_arguments(arguments: Any) -> Any:
    """A call's arguments as an object, where their text is JSON."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def functions_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message's calls as {name, arguments}, the arguments as objects."""
    functions = (call["function"] for call in message.get("tool_calls") or ())
    return [{"name": f["name"], "arguments": parse_arguments(f["arguments"])} for f in functions]


def with_objects(message: Mapping[str, Any]) -> Message:
    """A message whose calls have their arguments as objects, as chat templates take them."""
    if not message.get("tool_calls"):
        return dict(message)
    calls = [
        {**call, "function": {**call["function"], "arguments": parse_arguments(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def with_json_messages(rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Rows whose chats, in columns where messages may call, are lists of JSON texts: each message with the fields that
    it uses, the arguments of its calls as objects.
    """
    for name in columns:
        kind = rows.schema.get(name)
        inner = kind.inner if isinstance(kind, pl.List) else None
        if isinstance(inner, pl.Struct) and "tool_calls" in inner.to_schema():
            texts = [[json.dumps(with_objects(m), ensure_ascii=False) for m in chat] for chat in chats_in(rows[name])]
            rows = rows.with_columns(pl.Series(name, texts, pl.List(pl.String)))
    return rows
