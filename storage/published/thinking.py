"""What models thought before their answers, in the rows of a dataset: in a field of the message, in its text, or left
out. Counted for the card, too.
"""

from collections.abc import Mapping

import polars as pl

from synthmill.schemas.formats import Format, ThinkingPlace
from synthmill.schemas.thinking_settings import MARKS
from synthmill.storage.published.configurations import Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import REASONING

WITH_FIELDS: tuple[Format, ...] = ("as-made", "sft", "dpo", "kto", "reward", "prompts")
"""Formats whose messages trainers render with a chat template, which looks for thinking in a field."""
OWN_FIELD, OWN_COLUMN = "reasoning", "_reasoning"
"""How thinking is called in rows that are no messages: a field or column, and the end of a column's name."""
OPENING, CLOSING = MARKS[0]


def place_in(format_name: Format, wanted: ThinkingPlace) -> ThinkingPlace:
    """Where a format has thinking, if nothing else is wanted: where its trainers look."""
    return wanted or ("field" if format_name in WITH_FIELDS else "text")


def with_thinking(rows: RowStream, place: ThinkingPlace) -> RowStream:
    """Rows with their thinking at a place; `field` is where it is already."""
    return rows if place == "field" or not is_thinking_in(rows.schema) else rows.map(lambda batch: moved(batch, place))


def is_thinking_in(schema: Mapping[str, pl.DataType]) -> bool:
    """Whether rows have thinking that would have to be moved."""
    return any(
        is_own_column(name) or REASONING in fields_of(kind) or OWN_FIELD in fields_of(kind)
        for name, kind in schema.items()
    )


def moved(batch: pl.DataFrame, place: ThinkingPlace) -> pl.DataFrame:
    """A batch with its thinking in the texts, or without it."""
    for name, kind in batch.schema.items():
        fields = fields_of(kind)
        if REASONING in fields:
            batch = batch.with_columns(pl.col(name).list.eval(message_of(fields, place)))
        elif OWN_FIELD in fields and place == "drop":
            others = (pl.element().struct.field(field) for field in fields if field != OWN_FIELD)
            batch = batch.with_columns(pl.col(name).list.eval(pl.struct(others)))
        elif is_own_column(name) and place == "drop":
            batch = batch.drop(name)
    return batch


def message_of(fields: list[str], place: ThinkingPlace) -> pl.Expr:
    """A message without the field; in its text, if it is to be there."""
    thoughts, content = (pl.element().struct.field(name) for name in (REASONING, "content"))
    written = pl.concat_str(pl.lit(f"{OPENING}\n"), thoughts, pl.lit(f"\n{CLOSING}\n\n"), content.fill_null(""))
    text = content if place == "drop" else pl.when(thoughts.fill_null("") == "").then(content).otherwise(written)
    others = {name: pl.element().struct.field(name) for name in fields if name != REASONING}
    return pl.struct((others | {"content": text})[name].alias(name) for name in others)


def fields_of(kind: pl.DataType) -> list[str]:
    """The fields of a list's structs; none for another type."""
    inner = kind.inner if isinstance(kind, pl.List) else None
    return list(inner.to_schema()) if isinstance(inner, pl.Struct) else []


def is_own_column(name: str) -> bool:
    return name == OWN_FIELD or name.endswith(OWN_COLUMN)


def thinking_counts(tables: Mapping[str, Table]) -> tuple[int, int]:
    """(answers that have thinking, answers) in the chats of tables; (0, 0) where no chat can have any."""
    thinking = answers = 0
    for rows in (rows for table in tables.values() for rows in table.splits.values()):
        names = [name for name, kind in rows.schema.items() if REASONING in fields_of(kind)]
        for batch in rows.batches(names) if names else ():
            for fields in (message for name in names for message in batch[name].explode().drop_nulls().to_list()):
                answers += fields["role"] == "assistant"
                thinking += bool(fields[REASONING])
    return (thinking, answers) if thinking else (0, 0)


def without_thinking(text: str) -> str:
    """A text without what stands between marks of thinking before it."""
    return text.partition(CLOSING)[2] if text.startswith(OPENING) and CLOSING in text else text
