"""What is known of scorers' agreement with people, and of their biases. Source: docs/papers.md#trust."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from synthmill.tasks.cores import Array
from synthmill.tasks.trust.calibration import calibration
from synthmill.tasks.trust.comparisons import (
    LENGTHS,
    SIDES,
    coincidences_of,
    human_values,
    labelled_wins,
    note_same,
    rank_correlations,
    side_wins,
    slices_of,
    tables_of,
    usual_value,
)
from synthmill.tasks.trust.measures import (
    accuracy,
    both_ways,
    cohens_kappa,
    krippendorffs_alpha,
    ratio,
    resampled_sums,
    with_interval,
)

SLICES = ("length", "position", "family", "language")


class Trust:
    """One scorer after the other against the same labels.

    answers, comparisons, human: frames of `comparisons.py`, comparisons with their slices; prompts: how many.
    """

    def __init__(
        self,
        answers: pl.DataFrame,
        comparisons: pl.DataFrame,
        ratings: pl.DataFrame,
        languages: Sequence[str],
        draws: int,
        seed: int = 0,
    ) -> None:
        self.answers, self.prompts, self.draws, self.seed = answers, len(languages), draws, seed
        self.comparisons = slices_of(comparisons, languages)
        self.human = human_values(comparisons, ratings)
        self.rates_truth = bool(ratings.height and ratings["value"].is_in([0.0, 1.0]).all())

    def people(self) -> dict[str, Any]:
        """How many comparisons there are, and how far people agree with each other, where several compared the same."""
        coincidences = coincidences_of(self.comparisons, self.prompts)
        return {
            "comparisons": self.comparisons.height,
            "ties": int((self.comparisons["people"] == 0).sum()),
            "prompts": self.comparisons["prompt"].n_unique(),
            "by_several": int((self.comparisons.select(pl.sum_horizontal(pl.col("^raters.*$"))).to_series() > 1).sum()),
            "alpha": self.measure(of_table(krippendorffs_alpha), coincidences),
        }

    def scorer(self, column: str, name: str = "") -> dict[str, Any]:
        """The figures of one scorer. name: what it is called, if not as its column."""
        tables = tables_of(self.comparisons, column, self.prompts)
        values = self.answers[column].to_list()
        value, share = usual_value(values)
        scored = sum(score is not None for score in values)
        return {
            "scorer": name or column,
            "answers": len(values),
            "scored": scored,
            "usual": {"value": None if np.isnan(value) else value, "share": share},
            "comparisons": int(tables.sum()),
            "ties": int(tables[..., 1].sum()),
            "accuracy": self.measure(of_table(accuracy), tables),
            "kappa": self.measure(of_table(cohens_kappa), tables),
            "alpha": self.measure(of_table(lambda table: krippendorffs_alpha(both_ways(table))), tables),
            "spearman": self.measure(mean_of, rank_correlations(self.human, self.answers, column, self.prompts)),
            "calibration": self.calibration(column),
            "slices": [row for by in SLICES for row in self.slices(column, by)],
            "sides": self.sides(column),
        }

    def calibration(self, scorer: str) -> dict[str, Any] | None:
        """ECE, Brier and AUROC; None unless people call answers right or wrong (1, 0) and scores are chances."""
        joined = self.human.join(self.answers.select("prompt", "place", scorer), on=["prompt", "place"]).drop_nulls()
        confidences, right = joined[scorer].to_numpy(), joined["human"].to_numpy()
        if not self.rates_truth or not len(right) or confidences.min() < 0 or confidences.max() > 1:
            return None
        return calibration(confidences, right, joined["prompt"].to_numpy(), self.draws, self.seed)

    def slices(self, scorer: str, by: str) -> list[dict[str, Any]]:
        """Accuracy and kappa within each slice of one kind: lengths in their order, else the largest first."""
        rows = []
        for [name], part in self.comparisons.filter(pl.col(by).is_not_null()).group_by([by], maintain_order=True):
            tables = tables_of(part, scorer, self.prompts)
            rows.append(
                {
                    "by": by,
                    "slice": str(name),
                    "comparisons": int(tables.sum()),
                    "accuracy": self.measure(of_table(accuracy), tables),
                    "kappa": self.measure(of_table(cohens_kappa), tables),
                }
            )
        return sorted(rows, key=lambda row: (LENGTHS.index(row["slice"]) if by == "length" else 0, -row["comparisons"]))

    def sides(self, scorer: str) -> list[dict[str, Any]]:
        """How often the scorer prefers the earlier, the longer, the own family's answer: over all pairs, and over the
        labelled ones less how often people do.
        """
        wins = side_wins(self.answers, scorer, self.prompts)
        by_scorer, by_people = (
            labelled_wins(self.comparisons, verdict, scorer, self.prompts) for verdict in (scorer, "people")
        )
        rows = []
        for side in SIDES:
            if not wins[side][:, 0].any():
                continue
            both = np.concatenate([by_scorer[side], by_people[side][:, 1:]], 1)
            rows.append(
                {
                    "side": side,
                    "pairs": int(wins[side][:, 0].sum()),
                    "share": self.measure(share_of, wins[side]),
                    "labelled": int(both[:, 0].sum()),
                    "people": self.measure(share_of, by_people[side]),
                    "above_people": self.measure(lambda sums: ratio(sums[..., 1] - sums[..., 2], sums[..., 0]), both),
                }
            )
        return rows

    def measure(self, function: Callable[[Array], Array], statistics: Array) -> dict[str, float | None]:
        """A measure of sums over prompts, with its interval. Prompts without any are left out of the bootstrap."""
        flat = statistics.reshape(self.prompts, -1)
        flat = flat[flat.any(1)]
        return with_interval(function, flat, resampled_sums(flat, self.draws, self.seed))


def of_table(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A measure of tables as one of sums of nine cells."""
    return lambda sums: function(sums.reshape(*sums.shape[:-1], 3, 3))


def share_of(sums: Array) -> Array:
    """Wins as a share of pairs."""
    return ratio(sums[..., 1], sums[..., 0])


def mean_of(sums: Array) -> Array:
    """A sum over prompts as a mean."""
    return ratio(sums[..., 0], sums[..., 1])


def remarks(row: dict[str, Any], missing: dict[str, int]) -> list[str]:
    """What a reader should know of a scorer first: no scores, one score for all, a side that it prefers."""
    name, notes = row["scorer"], []
    if missing:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in missing.items())
        notes.append(f"{name}: {sum(missing.values()):,} of {row['answers']:,} answers have no score ({reasons})")
    if note := note_same(name, **row["usual"]):
        notes.append(note)
    for side in row["sides"]:
        above = side["above_people"]
        if above["value"] is not None and (above["low"] > 0 or above["high"] < 0):
            more = "more" if above["value"] > 0 else "less"
            notes.append(
                f"{name} prefers {SIDES[side['side']]} {more} often than people do, by {abs(above['value']):.1%} "
                f"({above['low']:+.1%} to {above['high']:+.1%})"
            )
        elif above["value"] is None and not side["share"]["low"] <= 0.5 <= side["share"]["high"]:
            notes.append(
                f"{name} prefers {SIDES[side['side']]} in {side['share']['value']:.1%} of all pairs "
                f"({side['share']['low']:.1%} to {side['share']['high']:.1%}); only labels tell whether rightly"
            )
    return notes
