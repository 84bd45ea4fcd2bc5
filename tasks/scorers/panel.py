"""A panel: one score of several that are there, by mean, median or majority. Source: docs/papers.md#panels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.scorers.verdicts import present_mean

Values = Sequence[float | None]
TIE = 1e-6  # the most that a tie breaker adds
DIGITS = 9  # scores are equal that differ behind these
Weights = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    Field(min_length=1, description="score or column -> the weight of its voice"),
]
Rule = Annotated[
    Literal["mean", "median", "majority"],
    Field(description="majority: the share of other answers that most of the panel puts below this one"),
]
Scale = Annotated[
    Literal["pool", "none"],
    Field(description="pool: each score from 0 to 1 within its pool, before mean and median; none: as it is"),
]
Quorum = Annotated[float, Field(gt=0, le=1, description="the share of the weights that must have a score")]


class PanelScores(FrameScorer):
    """Pools -> the same with one score of several. An answer for which less than `quorum` of the panel's weight has a
    score has none. Answers with the same score are put in the order of `tie_breaker`, another score, if there is one.
    """

    name: ClassVar = "panel_scores"
    version: ClassVar = "1"

    label: str = "panel"
    weights: Weights
    rule: Rule = "mean"
    scale: Scale = "pool"
    tie_breaker: str = ""
    quorum: Quorum = 0.5

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        for pool in pools:
            values = {score["scorer"]: finite_values(score["values"]) for score in pool["scores"]}
            wanted = {*self.weights, *filter(None, [self.tie_breaker])}
            if missing := sorted(wanted - values.keys()):
                raise InputError(
                    f"{self.label} needs the scores {', '.join(missing)}; found {', '.join(values) or 'none'}"
                )
            panel = {name: values[name] for name in self.weights}
            breaker = values.get(self.tie_breaker, [None] * len(pool["answers"]))
            if self.rule == "majority":
                yield majority(panel, self.weights, self.quorum, breaker)
                continue
            voices = {name: scaled(of) for name, of in panel.items()} if self.scale == "pool" else panel
            middle = weighted_mean if self.rule == "mean" else weighted_median
            columns = zip(*voices.values(), strict=True)
            scores = [self.of_answer(dict(zip(voices, column, strict=True)), middle) for column in columns]
            yield ties_broken(scores, breaker)

    def of_answer(self, voices: Mapping[str, float | None], middle: Any) -> float | None:
        present = [(value, self.weights[name]) for name, value in voices.items() if value is not None]
        enough = sum(weight for _, weight in present) >= self.quorum * sum(self.weights.values())
        return middle(present) if present and enough else None


class PanelSettings(ScorerSettings):
    """One score of several that are there: their weighted mean or median, or what most of them prefer."""

    kind: Literal["panel"] = "panel"
    weights: Weights
    rule: Rule = "mean"
    scale: Scale = "pool"
    tie_breaker: str = Field("", description="the score that orders answers which the panel finds equal")
    quorum: Quorum = 0.5

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.weights, *filter(None, [self.tie_breaker])]))

    def stage(self, context: ScoringContext) -> PanelScores:
        fields = ("weights", "rule", "scale", "tie_breaker", "quorum")
        return PanelScores(label=self.label, **{name: getattr(self, name) for name in fields})


def finite_values(values: Values) -> list[float | None]:
    return [value if value is not None and math.isfinite(value) else None for value in values]


def scaled(values: Values) -> list[float | None]:
    """Values from 0 to 1 within their pool; 0.5 where all are equal."""
    present = [value for value in values if value is not None]
    low, high = min(present, default=0.0), max(present, default=0.0)
    if high == low:
        return [None if value is None else 0.5 for value in values]
    return [None if value is None else value / (high - low) - low / (high - low) for value in values]


def weighted_mean(present: Sequence[tuple[float, float]]) -> float:
    """Of (value, weight)."""
    return sum(value * weight for value, weight in present) / sum(weight for _, weight in present)


def weighted_median(present: Sequence[tuple[float, float]]) -> float:
    """Of (value, weight): the value at which half of the weight is reached; the mean of two that share the middle."""
    half, reached = sum(weight for _, weight in present) / 2, 0.0
    ordered = sorted(present)
    for place, (value, weight) in enumerate(ordered):
        reached += weight
        if math.isclose(reached, half) and place + 1 < len(ordered):
            return (value + ordered[place + 1][0]) / 2
        if reached > half:
            return value
    return ordered[-1][0]


def majority(
    panel: Mapping[str, Values], weights: Mapping[str, float], quorum: float, breaker: Values
) -> list[float | None]:
    """Per answer the share of the others that most of the panel, by weight, puts below it. An even vote goes to the tie
    breaker, and is half a win for both without one. Two answers that less than the quorum compares do not meet.
    """
    count, total = len(breaker), sum(weights.values())
    won: list[list[float]] = [[] for _ in range(count)]
    for first in range(count):
        for second in range(first + 1, count):
            voices = [(of[first], of[second], weights[name]) for name, of in panel.items()]
            heard = [(a, b, weight) for a, b, weight in voices if a is not None and b is not None]
            if not heard or sum(weight for *_, weight in heard) < quorum * total:
                continue
            lead = sum(weight * ((a > b) - (a < b)) for a, b, weight in heard)
            if abs(lead) < TIE * total:
                a, b = breaker[first], breaker[second]
                lead = 0 if a is None or b is None else (a > b) - (a < b)
            won[first].append(0.5 if not lead else float(lead > 0))
            won[second].append(0.5 if not lead else float(lead < 0))
    return [present_mean(wins) for wins in won]


def ties_broken(scores: Values, breaker: Values) -> list[float | None]:
    """Scores; to those that another answer has, too, the tie breaker adds a millionth at most."""
    rounded = [None if score is None else round(score, DIGITS) for score in scores]
    added = scaled(breaker)
    return [
        score + TIE * (extra or 0.0) if score is not None and rounded.count(equal) > 1 else score
        for score, equal, extra in zip(scores, rounded, added, strict=True)
    ]
