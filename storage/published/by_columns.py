"""Rows as a dataset publishes them, told by their columns: preferences, conversations, triplets, pools, and others.

Rows that a cut left out (`kept` or `within` is false) are not published.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import CALLS
from synthmill.storage.published.configurations import Kind, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import PAIR, answer_message, message, thinks
from synthmill.storage.published.wide_pools import pool_rows

VERDICTS = ("kept", "within")
LEFT_OUT = (CALLS, *VERDICTS, "duplicate_of", "similarity", "layer", "note")
BEST_BY = "best by "
NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "preferences": ("prompt", "chosen", "rejected"),
    "conversations": ("messages",),
    "completions": ("prompt", "completion"),
    "labelled": ("prompt", "completion", "label"),
    "triplets": ("anchor", "positive", "negative"),
    "rl": ("prompt", "verifier"),
    "distillation": ("prompt", "privileged_context"),
    "prompts": ("prompt",),
    "other": (),
}
"""The columns that make rows of a kind, the kind that says most first; `labelled` has to be named, since a label may
mean anything.
"""
ANSWERS: Mapping[Kind, tuple[str, ...]] = {
    "preferences": ("chosen", "rejected"),
    "completions": ("completion",),
    "labelled": ("completion",),
    "distillation": (),
}
ABOUT: Mapping[Kind, str] = {
    "preferences": PAIR,
    "conversations": "a conversation: `messages`",
    "completions": "a `prompt` and its `completion`, as lists of messages",
    "labelled": "a `prompt`, its `completion`, as lists of messages, and whether it is wanted (`label`)",
    "rl": "a `prompt` with the `verifier` that checks its answers",
    "distillation": "a `prompt` without the `privileged_context` that its answers should know",
    "triplets": "an `anchor` with a `positive` and a `negative` text",
    "prompts": "a `prompt`",
    "other": "a row with its columns",
}
POOL = "a prompt with all its answers and scores; cut it with `synthmill pairs`"


class TableForm(Frozen):
    """What a table of a dataset is made of, where the columns' names do not say so."""

    kind: Kind | None = Field(None, description="default: what the columns say")
    prompt: str = Field("prompt", description="the column of the prompt")
    system: str = Field("system", description="the column of the system message, where there is one")
    answer: str = Field("", description="completions: a column, or, of pools, a policy or `best by SCORE`")
    columns: tuple[str, ...] | None = Field(None, description="further columns; default: all of the rows' own")
    about: str = Field("", description="what a row is, for people")

    def kind_of(self, columns: Iterable[str]) -> Kind:
        """What rows with these columns are published as."""
        return self.kind or kind_of({self.renamed().get(name, name) for name in columns})

    def renamed(self) -> dict[str, str]:
        """Columns with the names that their kind has for them."""
        names = {self.prompt: "prompt", self.system: "system"}
        return names | ({self.answer: "completion"} if self.answer else {})

    def check(self, columns: Sequence[str], place: str) -> None:
        """Raises InputError where rows with these columns lack what the form needs. place: whose rows they are."""
        kind = self.kind_of(columns)
        has = {self.renamed().get(name, name) for name in columns} | set(columns)
        if kind == "completions" and (self.answer or "completion") not in columns:
            if not self.answer:
                raise InputError("completions need `answer`: a column, or, of pools, a policy or `best by SCORE`")
            if "answers" not in columns:
                raise InputError(f"{place} has no column {self.answer!r} for `answer`; it has {', '.join(columns)}")
            needed = {"prompt", "answers", *(("scores",) if self.answer.startswith(BEST_BY) else ())}
        else:
            needed = set(NEEDED[kind])
        if missing := sorted((needed | set(self.columns or ())) - has):
            raise InputError(f"{kind} need {', '.join(missing)}; {place} has {', '.join(columns)}")


AS_IT_IS = TableForm()


def table_of(rows: RowStream, carried: Iterable[str] = (), form: TableForm = AS_IT_IS) -> Table:
    """Rows as one configuration of a dataset, all of them for training. carried: columns of the user's, which stay."""
    for verdict in VERDICTS:
        if rows.schema.get(verdict) == pl.Boolean:
            rows = rows.filter(pl.col(verdict))
    schema = rows.schema
    if form.kind in (None, "other") and "scores" in schema and isinstance(schema.get("answers"), pl.List):
        return Table.of(pool_rows(rows, sorted({*carried} & {*schema.names()})), "other", form.about or POOL)
    kind = form.kind_of(schema.names())
    published = rows.map(partial(in_form, form, kind), same_height=kind != "completions")
    return Table.of(published, kind, form.about or ABOUT[kind])


def kind_of(columns: Iterable[str]) -> Kind:
    """What rows with these columns are."""
    return next(kind for kind, needed in NEEDED.items() if set(needed) <= set(columns))


def in_form(form: TableForm, kind: Kind, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the names and, for prompts and answers, the lists of messages that their kind has; a system message is
    the prompt's first. Rows without the completion that was asked for are left out.
    """
    if kind == "completions" and form.answer and form.answer not in rows.columns:
        rows = rows.with_columns(*pool_answers(rows, form.answer)).drop("answers", "scores", strict=False)
    elif form.answer and f"{form.answer}_reasoning" in rows.columns:
        rows = rows.rename({f"{form.answer}_reasoning": "completion_reasoning"})
    new_names = {old: new for old, new in form.renamed().items() if old in rows.columns and old != new}
    rows = rows.drop([name for name in new_names.values() if name in rows.columns]).rename(new_names)
    if kind == "completions":
        rows = rows.filter(pl.col("completion").is_not_null())
    rows = with_messages(rows, kind)
    own = [*NEEDED[kind], *(["system"] if kind in ("prompts", "rl") else [])]
    names = rows.columns if form.columns is None else ["id", *own, *form.columns]
    return rows.select(name for name in dict.fromkeys(names) if name in rows.columns and name not in LEFT_OUT)


def with_messages(rows: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """The texts of prompts and answers as lists of messages, where the kind has such."""
    if kind not in ANSWERS:
        return rows
    texts = [name for name in ("prompt", *ANSWERS[kind]) if rows.schema.get(name) == pl.String]
    prompt = pl.concat_list(message("user", "prompt"))
    if "prompt" in texts and rows.schema.get("system") == pl.String:
        with_system = pl.concat_list(message("system", "system"), message("user", "prompt"))
        prompt = pl.when(pl.col("system").is_null()).then(prompt).otherwise(with_system)
    chats = {
        name: prompt if name == "prompt" else pl.concat_list(answer_message(name, f"{name}_reasoning", rows.columns))
        for name in texts
    }
    rows = rows.with_columns(**chats).drop([f"{name}_reasoning" for name in ANSWERS[kind]], strict=False)
    return rows.drop("system", strict=False) if "prompt" in texts else rows


def pool_answers(pools: pl.DataFrame, answer: str) -> list[pl.Series]:
    """`completion`: an answer of each pool, the first of a policy, or the best by a score; null where there is none.
    `completion_reasoning`: what was thought before it, where the pools say so.
    """
    label = answer.removeprefix(BEST_BY) if answer.startswith(BEST_BY) else None
    chosen = [
        best_answer(pool["answers"], pool["scores"], label)
        if label is not None
        else next((each for each in pool["answers"] if each.get("policy") == answer), None)
        for pool in pools.iter_rows(named=True)
    ]
    columns = {"completion": "text"}
    columns |= {"completion_reasoning": "reasoning"} if thinks(pools.schema["answers"]) else {}
    return [
        pl.Series(column, [each and each.get(name) for each in chosen], dtype=pl.String)
        for column, name in columns.items()
    ]


def best_answer(answers: list[dict[str, Any]], scores: list[dict[str, Any]], label: str) -> dict[str, Any] | None:
    """The answer with the highest score; of equal ones the first."""
    values = next((score["values"] for score in scores if score["scorer"] == label), None)
    numbers = [(value, -place) for place, value in enumerate(values or ()) if value is not None and value == value]
    return answers[-max(numbers)[1]] if numbers else None
