"""What a pipeline publishes: the rows of its steps, each in the form that its kind has for trainers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from synthmill.flows.making.steps import StepPlanner, kind_of
from synthmill.flows.methods.pipeline.settings import PublishedTable
from synthmill.flows.pages.templates import Manifests
from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import CALLS, Store
from synthmill.storage.published.folder import Dataset, Kind, Table
from synthmill.storage.published.rows import KEPT, SIDES, answer_message, message, stream_of, thinks

PUBLISHED_AS: Mapping[str, Kind] = {
    "preferences": "preferences",
    "conversations": "conversations",
    "prompts": "prompts",
}
"""The kind of a table by the kind of its rows, where nothing says otherwise."""
ABOUT: Mapping[Kind, str] = {
    "preferences": "a preference pair: `prompt`, `chosen`, `rejected` as lists of messages",
    "completions": "a prompt and its completion, as lists of messages",
    "conversations": "a conversation: `messages`",
    "prompts": "a prompt",
    "triplets": "a text, one near to it, and one that is not: `anchor`, `positive`, `negative`",
    "other": "a row",
}
BEST_BY = "best by "
NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "preferences": ("chosen", "rejected"),
    "conversations": ("messages",),
    "triplets": ("anchor", "positive", "negative"),
    "completions": (),
    "prompts": (),
    "other": (),
}
INTERNAL = ("parent_id", CALLS, "kept")


def check_published(tables: Mapping[str, PublishedTable], planner: StepPlanner) -> None:
    """Raises InputError for a table whose step is not there, or whose rows lack what its kind needs."""
    for name, table in tables.items():
        try:
            columns = planner.artifact(table.step, "from", ()).columns
            kind = kind_in(table, columns)
            needed = {*NEEDS[kind], *(table.columns or ())}
            if kind not in ("other", "conversations"):
                needed.add(table.prompt)
            if kind == "completions":
                needed |= answer_columns(table, columns)
            if missing := sorted(needed - set(columns.names)):
                raise InputError(
                    f"{kind} need {', '.join(missing)}; {table.step} has {kind_of(columns.names)} "
                    f"({', '.join(columns.names)})"
                )
        except InputError as error:
            raise InputError(f"publish.{name}: {error.message}") from error


def answer_columns(table: PublishedTable, columns: pa.Schema) -> set[str]:
    """The columns that hold a completion. Raises InputError where nothing says which."""
    if not table.answer:
        raise InputError("completions need `answer`: a column, or, of pools, a policy or `best by SCORE`")
    if table.answer in columns.names:
        return {table.answer}
    return {"answers", "scores"} if table.answer.startswith(BEST_BY) else {"answers"}


def kind_in(table: PublishedTable, columns: pa.Schema) -> Kind:
    """What a table's rows are published as."""
    return table.kind or PUBLISHED_AS.get(kind_of(columns.names), "other")


def published_dataset(name: str, store: Store, manifests: Manifests, tables: Mapping[str, PublishedTable]) -> Dataset:
    """The tables of a pipeline; manifests: by step."""
    published = {config: published_table(store, manifests, table) for config, table in tables.items()}
    steps = ", ".join(f"`{step}`" for step in manifests)
    return Dataset(name, f"Rows that the pipeline `{name}` made, in these steps: {steps}.", published)


def published_table(store: Store, manifests: Manifests, table: PublishedTable) -> Table:
    """A step's rows as a table of the dataset; those that a later step marked as not kept are left out."""
    rows = stream_of(store, manifests[table.step])
    schema = pa.schema([(column, pa.null()) for column in rows.columns])
    if "kept" in rows.columns:
        rows = rows.filter(KEPT)
    kind = kind_in(table, schema)
    form: Callable[[PublishedTable, pl.DataFrame], pl.DataFrame] = FORMS.get(kind, own_rows)
    return Table.of(rows.map(partial(form, table), same_height=kind != "completions"), kind, table.about or ABOUT[kind])


def own_rows(table: PublishedTable, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows' own columns."""
    names = rows.columns if table.columns is None else ["id", *table.columns]
    return rows.select(name for name in dict.fromkeys(names) if name not in INTERNAL)


def completions(table: PublishedTable, rows: pl.DataFrame) -> pl.DataFrame:
    """Prompt and completion as lists of messages. Rows without the answer are left out."""
    thoughts = f"{table.answer}_reasoning"
    if table.answer in rows.columns:
        answered = rows.with_columns(_answer=pl.col(table.answer).cast(pl.String))
    else:
        thoughts = "_thoughts"
        answered = rows.with_columns(*pool_answers(rows, table.answer))
    answered = answered.filter(pl.col("_answer").is_not_null())
    messages = {
        "prompt": prompt_messages(table, answered),
        "completion": pl.concat_list(answer_message("_answer", thoughts, answered.columns)),
    }
    return answered.with_columns(**messages).select(
        "id", *messages, *further(table, answered, (table.answer, thoughts, "answers", "scores"))
    )


def pool_answers(pools: pl.DataFrame, answer: str) -> list[pl.Series]:
    """One answer of each pool: the first of a policy, or the best by a score; null where there is none. A second column
    holds their thinking, where answers have any.
    """
    answers: list[dict[str, Any]] = []
    for pool in pools.iter_rows(named=True):
        candidates = pool["answers"]
        if answer.startswith(BEST_BY):
            chosen = best_answer(candidates, pool["scores"], answer.removeprefix(BEST_BY))
        else:
            chosen = next((each for each in candidates if each.get("policy") == answer), None)
        answers.append(chosen or {})
    columns = {"_answer": "text"} | ({"_thoughts": "reasoning"} if thinks(pools.schema["answers"]) else {})
    return [
        pl.Series(column, [each.get(field) for each in answers], dtype=pl.String) for column, field in columns.items()
    ]


def best_answer(answers: list[dict[str, Any]], scores: list[dict[str, Any]], label: str) -> dict[str, Any] | None:
    """The answer with the highest score; of equal ones the first."""
    values = next((score["values"] for score in scores if score["scorer"] == label), None)
    numbers = [(value, -place) for place, value in enumerate(values or ()) if value is not None and value == value]
    return answers[-max(numbers)[1]] if numbers else None


def preferences(table: PublishedTable, rows: pl.DataFrame) -> pl.DataFrame:
    """Pairs in TRL's conversational format."""
    messages = {
        "prompt": prompt_messages(table, rows),
        **{side: pl.concat_list(answer_message(side, f"{side}_reasoning", rows.columns)) for side in SIDES},
    }
    used = (*SIDES, *(f"{side}_reasoning" for side in SIDES))
    return rows.with_columns(**messages).select("id", *messages, *further(table, rows, used))


def prompts(table: PublishedTable, rows: pl.DataFrame) -> pl.DataFrame:
    """The prompt as a text."""
    return rows.select("id", pl.col(table.prompt).alias("prompt"), *further(table, rows, ()))


def prompt_messages(table: PublishedTable, rows: pl.DataFrame) -> pl.Expr:
    """The prompt as messages, after the system message where there is one."""
    user = pl.concat_list(message("user", table.prompt))
    if table.system not in rows.columns:
        return user
    with_system = pl.concat_list(message("system", table.system), message("user", table.prompt))
    return pl.when(pl.col(table.system).is_null()).then(user).otherwise(with_system)


def further(table: PublishedTable, rows: pl.DataFrame, used: tuple[str, ...]) -> list[str]:
    """The columns that stand beside those of the kind."""
    names = rows.columns if table.columns is None else table.columns
    taken = {"id", "prompt", "completion", "_answer", "_thoughts", table.prompt, table.system, *used, *INTERNAL}
    return [name for name in names if name not in taken]


FORMS: Mapping[str, Callable[[PublishedTable, pl.DataFrame], pl.DataFrame]] = {
    "completions": completions,
    "prompts": prompts,
    "preferences": preferences,
}
