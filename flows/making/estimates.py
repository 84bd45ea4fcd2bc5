"""What a plan's steps will take at most: rows, calls, tokens. Nothing is asked to know it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from synthmill.storage.artifacts import Store
from synthmill.tasks.frames import FileStage
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Planned


class Estimate(NamedTuple):
    """A step before it is made. rows_in, rows, calls, tokens: at most."""

    planned: Planned
    rows_in: int
    rows: int
    calls: int
    tokens: int
    is_made: bool


def estimates(store: Store, steps: Sequence[Planned], rows_of: Mapping[str, int]) -> Iterator[Estimate]:
    """An estimate for each step, in order. rows_of: the rows of their sources, by key."""
    rows_of = dict(rows_of)
    for planned in steps:
        stage, rows = planned.stage, rows_of[planned.source_key]
        rows_of[planned.key] = rows * (1 if isinstance(stage, Recipe) else stage.rows_per_row())
        if isinstance(stage, FileStage):
            rows_of[planned.key] = 1
        yield Estimate(
            planned,
            rows,
            rows_of[planned.key],
            rows * stage.requests_per_row() if isinstance(stage, Recipe) else 0,
            rows * stage.tokens_per_row() if isinstance(stage, Recipe) else 0,
            store.manifest_path(stage.name, planned.key).exists(),
        )
