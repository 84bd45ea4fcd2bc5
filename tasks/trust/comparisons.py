"""Pairs of a prompt's answers, with what people and scorers say of them.

Answers are a frame of one row per answer: prompt (int, from 0 without gaps), place, length, own (whether the judge's
own family wrote it), and a column per scorer; null where there is no score.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from synthmill.tasks.cores import Array
from synthmill.tasks.trust.measures import VERDICTS

SIDES = {"first": "the earlier answer", "longer": "the longer answer", "own": "the own family's answer"}
EDGES = (-0.5, -0.1, 0.1, 0.5)
SAME = 0.95  # of all scores: a scorer that gives one number so often is named
LENGTHS = ("much shorter", "shorter", "as long", "longer", "much longer")
"""What people prefer, against the other answer: the difference of lengths as a share of the longer, cut at EDGES."""


def comparisons_of(labels: pl.DataFrame, answers: pl.DataFrame, scorers: Sequence[str]) -> pl.DataFrame:
    """Every labelled pair of answers once, the earlier one first.

    labels: prompt, first, second (places), value (1: the first is better, -1, 0), annotator. Adds to each pair: people
    (the verdict of most: -1, 0 or 1), raters (how often each verdict was given), the scorers' verdicts, lengths, own.
    """
    turned = pl.col("first") > pl.col("second")
    pairs = (
        labels.select(
            "prompt",
            "annotator",
            first=pl.min_horizontal("first", "second"),
            second=pl.max_horizontal("first", "second"),
            value=pl.when(turned).then(-pl.col("value")).otherwise("value"),
        )
        .filter(pl.col("first") != pl.col("second"))
        .group_by("prompt", "first", "second", maintain_order=True)
        .agg(
            pl.col("value").sum().sign().cast(pl.Int8).alias("people"),
            *(pl.col("value").eq(verdict).sum().alias(f"raters{verdict}") for verdict in VERDICTS),
        )
    )
    for side in ("first", "second"):
        columns = [pl.col(name).alias(f"{name}_{side}") for name in (*scorers, "length", "own")]
        pairs = pairs.join(
            answers.select("prompt", pl.col("place").alias(side), *columns), on=["prompt", side], how="left"
        )
    verdicts = [
        (pl.col(f"{name}_first") - pl.col(f"{name}_second")).sign().cast(pl.Int8).alias(name) for name in scorers
    ]
    return pairs.with_columns(*verdicts)


def comparisons_of_ratings(ratings: pl.DataFrame) -> pl.DataFrame:
    """Labels of pairs from labels of answers: each annotator's, every two answers of a prompt. ratings: prompt, place,
    value, annotator.
    """
    other = ratings.rename({"place": "second", "value": "other"})
    return (
        ratings.rename({"place": "first"})
        .join(other, on=["prompt", "annotator"])
        .filter(pl.col("first") < pl.col("second"))
        .select("prompt", "first", "second", "annotator", value=(pl.col("value") - pl.col("other")).sign())
    )


def tables_of(comparisons: pl.DataFrame, scorer: str, prompts: int) -> Array:
    """Per prompt how often people (rows) and the scorer (columns) gave each verdict: (prompts, 3, 3)."""
    present = comparisons.filter(pl.col(scorer).is_not_null())
    prompt, people, verdict = (present[name].to_numpy().astype(int) for name in ("prompt", "people", scorer))
    cells = prompt * 9 + (people + 1) * 3 + verdict + 1
    return np.bincount(cells, minlength=prompts * 9).reshape(prompts, 3, 3).astype(float)


def coincidences_of(comparisons: pl.DataFrame, prompts: int) -> Array:
    """Per prompt the coincidences of annotators, over what several of them compared: (prompts, 3, 3)."""
    counts = comparisons.select(f"raters{verdict}" for verdict in VERDICTS).to_numpy().astype(float)
    raters = counts.sum(1)
    several = raters > 1
    counts, raters = counts[several], raters[several]
    pairs = (counts[:, :, None] * counts[:, None, :] - np.eye(3) * counts[:, :, None]) / (raters - 1)[:, None, None]
    sums = np.zeros((prompts, 3, 3))
    np.add.at(sums, comparisons["prompt"].to_numpy()[several], pairs)
    return sums


def slices_of(comparisons: pl.DataFrame, languages: Sequence[str]) -> pl.DataFrame:
    """The comparisons with the slices that each is in: length, position, family (of the answer that people prefer) and
    language (of the prompt); null where it is in none. languages: by prompt.
    """
    chosen, other = (
        pl.when(pl.col("people") == sign).then("length_first").otherwise("length_second") for sign in (1, -1)
    )
    difference = (chosen - other) / pl.max_horizontal(chosen, other, 1)
    degree = pl.sum_horizontal(difference > edge for edge in EDGES)
    own = pl.col("own_first"), pl.col("own_second")
    of_chosen = pl.when(pl.col("people") == 1).then(own[0]).otherwise(own[1])
    decided = pl.col("people") != 0
    named = pl.Series("language", list(languages), pl.String)
    return comparisons.with_columns(
        length=pl.when(decided).then(degree.replace_strict(dict(enumerate(LENGTHS)), return_dtype=pl.String)),
        position=pl.when(decided).then(
            pl.when(pl.col("people") == 1).then(pl.lit("earlier")).otherwise(pl.lit("later"))
        ),
        family=pl.when(decided & (own[0] != own[1])).then(
            pl.when(of_chosen).then(pl.lit("own")).otherwise(pl.lit("other"))
        ),
        language=named.gather(comparisons["prompt"]).replace("", None),
    )


def side_wins(answers: pl.DataFrame, scorer: str, prompts: int) -> dict[str, Array]:
    """Per side of SIDES and prompt: (pairs that have one such side, how many of them it wins; ties count half), over
    all pairs of a prompt's scored answers: (prompts, 2).
    """
    sums = {side: np.zeros((prompts, 2)) for side in SIDES}
    scored = answers.filter(pl.col(scorer).is_not_null()).sort("prompt", "place")
    for group in scored.partition_by("prompt", maintain_order=True):
        scores, length, own = (group[name].to_numpy().astype(float) for name in (scorer, "length", "own"))
        first, second = np.triu_indices(len(scores), 1)
        wins = (1 + np.sign(scores[first] - scores[second])) / 2
        marks = {
            "first": np.ones(len(first)),
            "longer": length[first] - length[second],
            "own": own[first] - own[second],
        }
        for side, mark in marks.items():
            sums[side][group["prompt"][0]] = side_counts(np.sign(mark), wins)
    return sums


def labelled_wins(comparisons: pl.DataFrame, verdict: str, scorer: str, prompts: int) -> dict[str, Array]:
    """As `side_wins`, over labelled pairs that the scorer scored. verdict: whose, the scorer's or `people`."""
    present = comparisons.filter(pl.col(scorer).is_not_null())
    wins = (1 + present[verdict].to_numpy().astype(float)) / 2
    differences = {
        "first": np.ones(len(wins)),
        "longer": (present["length_first"].cast(pl.Int64) - present["length_second"].cast(pl.Int64)).to_numpy(),
        "own": present["own_first"].to_numpy().astype(int) - present["own_second"].to_numpy().astype(int),
    }
    sums = {}
    for side, difference in differences.items():
        mark = np.sign(difference).astype(float)
        of_side = np.where(mark > 0, wins, 1 - wins) * (mark != 0)
        prompt = present["prompt"].to_numpy()
        weights = [np.bincount(prompt, values, prompts) for values in ((mark != 0).astype(float), of_side)]
        sums[side] = np.stack(weights, 1)
    return sums


def side_counts(mark: Array, wins: Array) -> tuple[float, float]:
    """(pairs with a mark, wins of the marked side). mark: 1 for the first answer, -1 for the second, 0 for none."""
    return float(np.count_nonzero(mark)), float(wins[mark > 0].sum() + (1 - wins[mark < 0]).sum())


def note_same(scorer: str, value: float, share: float) -> str:
    """A note on a scorer that gives `value` to this share of all answers; empty where it tells them apart."""
    return (
        f"{scorer} gives {value:g} to {share:.0%} of all answers: it hardly tells them apart" if share >= SAME else ""
    )


def usual_value(values: Sequence[float | None]) -> tuple[float, float]:
    """(the most frequent score, its share of all scores); (NaN, 0) without any."""
    counts: Counter[float] = Counter(value for value in values if value is not None)
    if not counts:
        return float("nan"), 0.0
    [(value, count)] = counts.most_common(1)
    return value, count / counts.total()


def human_values(comparisons: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Per answer what people think of it, `human`: its mean rating, or, of pairs, the share that it won."""
    if ratings.height:
        return ratings.group_by("prompt", "place", maintain_order=True).agg(human=pl.col("value").mean())
    sides = [
        comparisons.select("prompt", place=pl.col(side), won=(1 + sign * pl.col("people")) / 2)
        for side, sign in (("first", 1), ("second", -1))
    ]
    return pl.concat(sides).group_by("prompt", "place", maintain_order=True).agg(human=pl.col("won").mean())


def rank_correlations(human: pl.DataFrame, answers: pl.DataFrame, scorer: str, prompts: int) -> Array:
    """Per prompt (Spearman's correlation of the scores with what people think, 1); zeros where there is no order:
    (prompts, 2).
    """
    joined = human.join(answers.select("prompt", "place", scorer), on=["prompt", "place"]).drop_nulls()
    ranks = [pl.col(name).rank().over("prompt").alias(name) for name in ("human", scorer)]
    values = joined.with_columns(ranks).group_by("prompt").agg(rho=pl.corr("human", scorer)).drop_nulls()
    values = values.filter(pl.col("rho").is_finite())
    sums = np.zeros((prompts, 2))
    sums[values["prompt"].to_numpy()] = np.stack([values["rho"].to_numpy(), np.ones(values.height)], 1)
    return sums
