"""Calibrated confidence: from any score, how often answers with such a score are right, learned from labels.

Source: docs/papers.md#confidence.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.cores import Array
from synthmill.tasks.frames import even_parts
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.trust.calibration import MEASURES, calibration
from synthmill.tasks.trust.measures import DRAWS

ROWS_PER_PART = 64
SHOWN = 5000  # labelled prompts, the first ones, of which the page says how well a confidence is calibrated
Map = Callable[[Array], Array]
Method = Annotated[
    Literal["isotonic", "platt"],
    Field(description="isotonic: any rising steps, for hundreds of labels; platt: a sigmoid, for fewer"),
]
Of = Annotated[str, Field(min_length=1, description="the score that becomes a confidence")]
Label = Annotated[
    str, Field(min_length=1, description="the score, or column, that says which answers are right, where it is known")
]
Passing = Annotated[float, Field(description="the least label of a right answer")]
Folds = Annotated[int, Field(ge=2, description="labelled prompts are divided so; each gets what the others taught")]


class CalibratedScores(FrameScorer):
    """Pools -> the same with a confidence from 0 to 1, made of the score `of` by the labels `by`: the share of right
    answers among those with such a score. Labelled prompts get it from the other folds, all others from all labels.

    An answer without the score has none. Raises InputError where fewer than two prompts have labels.
    """

    name: ClassVar = "calibrated_scores"
    version: ClassVar = "1"
    whole: ClassVar = True

    label: str = "calibrated"
    of: Of
    by: Label
    method: Method = "isotonic"
    passing: Passing = 1.0
    folds: Folds = 5

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, ROWS_PER_PART)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        if not pools:
            return []
        values, labels = (score_values(pools, name, self.label) for name in (self.of, self.by))
        pairs = [
            [
                (value, float(label >= self.passing))
                for value, label in zip(*pool, strict=True)
                if value is not None and label is not None
            ]
            for pool in zip(values, labels, strict=True)
        ]
        labelled = [place for place, of_pool in enumerate(pairs) if of_pool]
        if len(labelled) < 2:
            raise InputError(
                f"{self.label} learns from answers with {self.of} and {self.by}; {len(labelled)} prompts have "
                "some, expected two at least"
            )
        folds = min(self.folds, len(labelled))
        fold_of = {place: n % folds for n, place in enumerate(labelled)}

        def map_without(fold: int) -> Map:
            known = [pair for place in labelled if fold_of[place] != fold for pair in pairs[place]]
            return FITS[self.method](*np.array(known).T)

        maps = {fold: map_without(fold) for fold in (*range(folds), -1)}
        return [calibrated(numbers, maps[fold_of.get(place, -1)]) for place, numbers in enumerate(values)]

    figure_columns: ClassVar = ("scores",)

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """Expected calibration error, Brier score and AUROC by the labels, of the confidence, and of the score it is
        made of where that is from 0 to 1, too.
        """
        pools = (
            {score["scorer"]: score["values"] for score in scores}
            for batch in batches
            for scores in batch["scores"].to_list()
        )
        labelled = list(islice((pool for pool in pools if any(map(is_number, pool.get(self.by, ())))), SHOWN))
        rows = []
        for name in (self.of, self.label):
            cells = [
                (value, float(label >= self.passing), prompt)
                for prompt, pool in enumerate(labelled)
                for value, label in zip(pool.get(name, ()), pool[self.by], strict=False)
                if is_number(value) and is_number(label)
            ]
            values, right, prompts = np.array(cells).reshape(-1, 3).T
            if len(values) and values.min() >= 0 and values.max() <= 1:
                measures = calibration(values, right, prompts.astype(int), DRAWS)
                rows.append((name, *map(cell_of, measures.values())))
        about = f"By the labels of {len(labelled):,} prompts, with 95 % intervals by bootstrap over them."
        return [Figure(f"{self.label}: calibration", ("score", *MEASURES), tuple(rows), about=about)] if rows else []


class CalibratedSettings(ScorerSettings):
    """A score as calibrated confidence: how often answers with such a score are right, learned from labels."""

    kind: Literal["calibrated"] = "calibrated"
    of: Of
    by: Label
    method: Method = "isotonic"
    passing: Passing = 1.0
    folds: Folds = 5

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of, self.by)

    def stage(self, context: ScoringContext) -> CalibratedScores:
        own = {name: getattr(self, name) for name in ("of", "by", "method", "passing", "folds")}
        return CalibratedScores(label=self.label, **own)


def score_values(pools: Sequence[Pool], name: str, label: str) -> list[list[float | None]]:
    """Of each pool, a score's values. label: who needs it. Raises InputError where no pool has it."""
    of_pools = [
        next((score["values"] for score in reversed(pool["scores"]) if score["scorer"] == name), None) for pool in pools
    ]
    if all(values is None for values in of_pools):
        labels = sorted({score["scorer"] for pool in pools for score in pool["scores"]})
        raise InputError(f"{label} needs the score {name}; found {', '.join(labels) or 'none'}")
    return [
        [value if is_number(value) else None for value in values]
        if values is not None
        else [None] * len(pool["answers"])
        for pool, values in zip(pools, of_pools, strict=True)
    ]


def is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def cell_of(measure: Mapping[str, float | None]) -> str:
    """A measure with its interval."""
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    return "" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def calibrated(values: Sequence[float | None], mapping: Map) -> list[float | None]:
    present = [value for value in values if value is not None]
    mapped = iter(mapping(np.array(present)).tolist() if present else ())
    return [None if value is None else next(mapped) for value in values]


def isotonic(scores: Array, right: Array) -> Map:
    """The rising steps that are nearest to the labels; beyond the scores that were seen, the outermost ones."""
    from sklearn.isotonic import IsotonicRegression

    mapping: Map = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, right).predict
    return mapping


def platt(scores: Array, right: Array) -> Map:
    """A sigmoid of the score, fitted to Platt's targets: (n + 1) / (n + 2) for n right answers, 1 / (m + 2) for m wrong
    ones, so that labels which a limit parts without error make no steps of it.
    """
    from sklearn.linear_model import LogisticRegression

    middle, spread = scores.mean(), scores.std() or 1.0
    count = right.sum()
    targets = np.where(right == 1, (count + 1) / (count + 2), 1 / (len(right) - count + 2))
    columns = np.tile((scores - middle) / spread, 2)[:, None]
    sides, weights = np.repeat([1, 0], len(scores)), np.concatenate([targets, 1 - targets])
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(columns, sides, sample_weight=weights)
    return lambda values: model.predict_proba(((values - middle) / spread)[:, None])[:, 1]


FITS: dict[str, Callable[[Array, Array], Map]] = {"isotonic": isotonic, "platt": platt}
