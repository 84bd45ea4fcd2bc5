"""A weighted sum of scores that are there already. HelpSteer2's, for instance. Source: docs/papers.md#helpsteer."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext

HELPSTEER2 = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.4}


class WeightedScores(FrameScorer):
    """Pools -> the same with a weighted sum of their scores; missing where one of them is."""

    name: ClassVar = "weighted_scores"
    version: ClassVar = "1"

    label: str = "weighted"
    weights: dict[str, float]

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        for pool in pools:
            values_by_score = {score["scorer"]: score["values"] for score in pool["scores"]}
            if missing := sorted(self.weights.keys() - values_by_score.keys()):
                names = ", ".join(values_by_score) or "none"
                raise InputError(f"{self.label} needs the scores {', '.join(missing)}; found {names}")
            yield [
                weighted_sum(dict(zip(values_by_score, values, strict=True)), self.weights)
                for values in zip(*values_by_score.values(), strict=True)
            ]


class WeightedSettings(ScorerSettings):
    """A weighted sum of columns or scores."""

    short_forms: ClassVar = ("helpsteer2",)

    kind: Literal["weighted"] = "weighted"
    weights: dict[str, float] = Field(description="score or column -> weight")

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        return {"name": "helpsteer2", "weights": HELPSTEER2} if spec == "helpsteer2" else None

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def stage(self, context: ScoringContext) -> WeightedScores:
        return WeightedScores(label=self.label, weights=self.weights)


def weighted_sum(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of named values; None where one is missing."""
    present = {name: value for name in weights if (value := values.get(name)) is not None}
    if len(present) < len(weights):
        return None
    return sum(weights[name] * value for name, value in present.items())
