"""What a pipeline publishes: the rows of its steps, each in the form that its kind has for trainers."""

from collections.abc import Mapping, Sequence

from synthmill.flows.making.steps import StepPlanner
from synthmill.flows.methods.pipeline.settings import PublishedTable
from synthmill.flows.pages.templates import Manifests
from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import Store
from synthmill.storage.published.by_columns import table_of
from synthmill.storage.published.configurations import Dataset
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.running.job import Planned
from synthmill.tasks.scorers.figures import figures_of_steps, notes_of_steps
from synthmill.tasks.scorers.judgements import notes_on_judgements


def check_published(tables: Mapping[str, PublishedTable], planner: StepPlanner) -> None:
    """Raises InputError for a table whose step is not there, or whose rows lack what its kind needs."""
    for name, table in tables.items():
        try:
            table.check(planner.artifact(table.step, "from", ()).columns.names, table.step)
        except InputError as error:
            raise InputError(f"publish.{name}: {error.message}") from error


def published_dataset(
    name: str,
    store: Store,
    manifests: Manifests,
    tables: Mapping[str, PublishedTable],
    carried: Mapping[str, frozenset[str]],
    stages: Sequence[Planned],
) -> Dataset:
    """The tables of a pipeline. manifests, carried (the columns of the user's): by step."""
    published = {
        config: table_of(stream_of(store, manifests[table.step]), carried[table.step], table)
        for config, table in tables.items()
    }
    steps = ", ".join(f"`{step}`" for step in manifests)
    return Dataset(
        name,
        f"Rows that the pipeline `{name}` made, in these steps: {steps}.",
        published,
        notes=[*notes_on_judgements(store, manifests), *notes_of_steps(store, manifests, stages)],
        figures=figures_of_steps(store, manifests, stages),
    )
