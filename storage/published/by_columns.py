"""Rows as a dataset publishes them, told by their columns: preferences, conversations, triplets, pools, and others.

Rows that a cut left out (`kept` or `within` is false) are not published.
"""

from collections.abc import Iterable

import polars as pl

from synthmill.storage.artifacts import CALLS
from synthmill.storage.published.folder import Kind, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import PAIR, message
from synthmill.storage.published.wide_pools import pool_rows

VERDICTS = ("kept", "within")
LEFT_OUT = (CALLS, *VERDICTS, "duplicate_of", "similarity", "layer", "note")
PAIRED, TRIPLET = ("prompt", "chosen", "rejected"), ("anchor", "positive", "negative")
ABOUT: dict[Kind, str] = {
    "preferences": PAIR,
    "conversations": "a conversation: `messages`",
    "completions": "a `prompt` and its `completion`, as lists of messages",
    "triplets": "an `anchor` with a `positive` and a `negative` text",
    "prompts": "a `prompt`",
    "other": "a row with its columns",
}
POOL = "a prompt with all its answers and scores; cut it with `synthmill pairs`"


def table_of(rows: RowStream, carried: Iterable[str] = ()) -> Table:
    """Rows as one configuration of a dataset, all of them for training. carried: columns of the user's, which stay."""
    for verdict in VERDICTS:
        if rows.schema.get(verdict) == pl.Boolean:
            rows = rows.filter(pl.col(verdict))
    schema = rows.schema
    if "scores" in schema and isinstance(schema.get("answers"), pl.List):
        return Table.of(pool_rows(rows, sorted({*carried} & {*schema.names()})), "other", POOL)
    kind = kind_of(schema)
    return Table.of(rows.map(lambda batch: in_messages(batch, kind)), kind, ABOUT[kind])


def kind_of(schema: pl.Schema) -> Kind:
    """What rows with these columns are."""
    names = set(schema.names())
    if names.issuperset(PAIRED):
        return "preferences"
    if isinstance(schema.get("messages"), pl.List):
        return "conversations"
    if names.issuperset(("prompt", "completion")):
        return "completions"
    if names.issuperset(TRIPLET):
        return "triplets"
    return "prompts" if "prompt" in names else "other"


def in_messages(rows: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """Rows with the texts of prompts and answers as lists of messages, where their kind has such; a system message is
    the prompt's first.
    """
    rows = rows.drop(LEFT_OUT, strict=False)
    if kind not in ("preferences", "completions"):
        return rows
    texts = [name for name in ("prompt", "chosen", "rejected", "completion") if rows.schema.get(name) == pl.String]
    prompt = pl.concat_list(message("user", "prompt"))
    if "prompt" in texts and rows.schema.get("system") == pl.String:
        with_system = pl.concat_list(message("system", "system"), message("user", "prompt"))
        prompt = pl.when(pl.col("system").is_null()).then(prompt).otherwise(with_system)
    chats = {name: prompt if name == "prompt" else pl.concat_list(message("assistant", name)) for name in texts}
    rows = rows.with_columns(**chats)
    return rows.drop("system", strict=False) if "prompt" in texts else rows
