"""What methods that make prompts share: they end in rows that are compared, and are published as prompts or chats."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.flows.making.cleaning import Comparison, clean
from synthmill.flows.making.plan import Plan, Source
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Figure
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import KEPT, NO_THOUGHTS, answer_message, message, stream_of
from synthmill.tasks.dedup.contamination import CleanRows
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.running.job import Planned
from synthmill.tasks.scorers.figures import figures_of_steps

Manifests = Mapping[str, Manifest]
VERDICTS = ("kept", "duplicate_of", "similarity", "layer", "contaminated", "benchmark", "matched_id", "evidence")


def resolved_roles(settings: PublishSettings, store: Store, *roles: str) -> dict[str, EngineSettings]:
    """The engine of every role."""
    return {role: resolve(settings.engine(role), store) for role in roles}


def plan_prompts(
    flow: str,
    settings: PublishSettings,
    store: Store,
    source: Source,
    stages: Sequence[Planned],
    publish: Callable[[RowStream, Manifests], Dataset],
    texts: tuple[str, ...] = ("prompt",),
) -> Plan:
    """The plan of a method whose last stage makes rows with a `prompt`. publish: the rows that stay -> a dataset;
    texts: what is compared with benchmarks.
    """
    cleaning = clean(flow, settings, store, stages[-1].key, Comparison(CleanRows, UniqueRows, texts=texts))
    steps = [*stages, *cleaning.stages]

    def published(manifests: Manifests) -> Dataset:
        rows = stream_of(store, manifests["unique_rows"]).filter(KEPT).map(without_verdicts)
        dataset = publish(rows, manifests)
        figures = [*dataset.figures, *figures_of_steps(store, manifests, steps)]
        return Dataset(dataset.title, dataset.intro, dataset.tables, figures=figures)

    return Plan(flow, settings, store, source, steps, published, trunk="unique_rows", others=cleaning.sources)


def without_verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop(VERDICTS, strict=False)


def as_chats(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with a `prompt`, a `response` and perhaps a `system` as conversations; all their other columns stay."""
    thoughts = NO_THOUGHTS if "reasoning" in rows.columns else None
    chat = [message("user", "prompt", thoughts), answer_message("response", "reasoning", rows.columns)]
    messages = pl.concat_list(chat)
    if "system" in rows.columns:
        with_system = pl.concat_list(message("system", "system", thoughts), *chat)
        messages = pl.when(pl.col("system").is_null()).then(messages).otherwise(with_system)
    others = rows.drop("prompt", "response", "reasoning", "system", "reference", "note", strict=False)
    return others.with_columns(rows.select(messages=messages)["messages"])


def counts_of(rows: RowStream, title: str, *columns: str, most: int = 20) -> Figure:
    """How many of the rows that stay have each value of some columns."""
    counts = rows.frame(list(columns)).group_by(columns).len("rows")
    ranked = counts.sort(["rows", *columns], descending=[True, *[False] * len(columns)]).head(most)
    cells: Any = tuple((*map(str, values), f"{count:,}") for *values, count in ranked.rows())
    return Figure(title, (*columns, "rows"), cells, text_columns=len(columns))
