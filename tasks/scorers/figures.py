"""What stages show of their rows on a dataset's page and card, beside the dataset that is made of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import polars as pl

from synthmill.schemas.artifacts import Manifest
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Figure
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.running.job import Planned
from synthmill.tasks.trust.comparisons import note_same

FEWEST = 20  # scores: of fewer, nothing is said


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


def notes_of_steps(store: Store, manifests: Mapping[str, Manifest], steps: Sequence[Planned]) -> list[str]:
    """The scorers that say the same of nearly all answers. manifests: by step."""
    notes = []
    for planned in steps:
        manifest = manifests.get(planned.step)
        if manifest is None or "scores" not in manifest.columns or not (label := getattr(planned.stage, "label", "")):
            continue
        counts = counts_of_scores(stream_of(store, manifest).batches(["scores"]), label)
        [(value, count)] = counts.most_common(1) or [(0.0, 0)]
        if counts.total() >= FEWEST and (note := note_same(label, value, count / counts.total())):
            notes.append(note)
    return notes


def counts_of_scores(batches: Iterable[pl.DataFrame], scorer: str) -> Counter[float]:
    """How often each number was given. batches: of pools, with `scores`."""
    counts = Counter[float]()
    for batch in batches:
        scores = batch.select(pl.col("scores").explode().drop_nulls()).unnest("scores")
        values = scores.filter(pl.col("scorer") == scorer)["values"].explode().drop_nulls()
        counts.update(dict(values.value_counts().iter_rows()))
    return counts
