"""What a scorer is: settings that know their stage, which gives each answer of a pool a number.

Each scorer is one module of this package: its stage, what it parses, and its settings. The settings of all of them form
a union that is found by listing this folder (schemas/kinds.py). A number that is not finite counts as missing.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import orjson
import polars as pl
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.schemas.kinds import KindSettings
from synthmill.schemas.pools import Score, ScoredPool
from synthmill.schemas.rows import Dropped, arrow_schema
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.running.job import Stage

Pool = dict[str, Any]
SCORES = pl.DataFrame(arrow_schema(ScoredPool).empty_table()).schema["scores"]


class ScoringContext(NamedTuple):
    """What a scorer takes from the run. most_answers: of a pool, for plans."""

    embedder: str
    seed: int = 0
    most_answers: int = 1


class ScorerSettings(KindSettings):
    """One scorer. Several live side by side, each under its own name."""

    package: ClassVar = "synthmill.tasks.scorers"
    noun: ClassVar = "scorer"

    name: str = Field(
        "", description="what its column is called; default: the kind, or the function's name", pattern=r"^[\w.-]*$"
    )

    @property
    def label(self) -> str:
        return self.name or self.kind.replace("-", "_")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all its scores: those that it is made of, if it gives them, and its own."""
        return (self.label,)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it asks."""
        return ()

    @property
    def compares(self) -> tuple[str, ...]:
        """The roles whose models it compares, which must be several."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The scores, or columns of the user's, that it is made from."""
        return ()

    @property
    def reads_by_row(self) -> tuple[str, ...]:
        """The columns in which rows say how their answers are scored: their verifier, or their rubric."""
        return ()

    @property
    def needs_by_row(self) -> tuple[str, ...]:
        """Those of them without which it cannot score."""
        return ()

    def stage(self, context: ScoringContext) -> Stage:
        """The stage that adds this score to pools. Raises InputError, MissingExtra."""
        raise TypeError(f"{type(self).__name__} must define stage(context)")


class FrameScorer(FrameStage):
    """A scorer that works on whole frames and asks no chat model. label: the score's name."""

    needs: ClassVar = ("id", "prompt", "system", "reference", "answers", "scores")
    adds: ClassVar = ("scores",)

    label: str = "score"

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        """Per pool, a number per answer. pools: rows as dicts."""
        raise TypeError(f"{type(self).__name__} must define score(pools, store)")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        """Adds a score to every pool. A pool without any stays: another score may be the one that counts."""
        pools = frame.to_dicts()
        settings = {"scorer": self.name, "version": self.version, **self.model_dump(mode="json", exclude={"label"})}
        settings_json = orjson.dumps(settings).decode()
        scores = []
        for pool, numbers in zip(pools, self.score(pools, store), strict=True):
            try:
                values = [finite_or_none(number) for number in numbers]
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{self.label} gave {numbers!r:.60}; expected a number per answer") from error
            if len(values) != len(pool["answers"]):
                raise InputError(f"{self.label} gave {len(values)} scores for {len(pool['answers'])} answers")
            score = Score(scorer=self.label, settings=settings_json, values=tuple(values))
            scores.append([*pool["scores"], score.model_dump()])
        return frame.with_columns(pl.Series("scores", scores, dtype=SCORES)), []


def finite_or_none(value: Any) -> float | None:
    """A finite number as float, else None; numpy's and torch's numbers count. Raises TypeError for no number."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
