"""What stages show of their rows on a dataset's page, beside the dataset that is made of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import polars as pl

from synthmill.schemas.artifacts import Manifest
from synthmill.storage.artifacts import Store
from synthmill.storage.published.folder import Figure
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.running.job import Planned


@runtime_checkable
class HasFigures(Protocol):
    """A stage that has figures. figure_columns: what they are made of."""

    figure_columns: ClassVar[tuple[str, ...]]

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]: ...


def figures_of_steps(store: Store, manifests: Mapping[str, Manifest], steps: Sequence[Planned]) -> list[Figure]:
    """The figures of all steps that have some and any rows. manifests: by step."""
    return [
        figure
        for planned in steps
        if isinstance(planned.stage, HasFigures) and (manifest := manifests.get(planned.step)) and manifest.rows
        for figure in planned.stage.figures(stream_of(store, manifest).batches(list(planned.stage.figure_columns)))
    ]
