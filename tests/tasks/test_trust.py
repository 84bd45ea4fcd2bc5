"""Agreement with people by hand: kappa, alpha, Spearman, intervals, and what a scorer prefers without a reason."""

from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from synthmill.tasks.trust.comparisons import (
    coincidences_of,
    comparisons_of,
    comparisons_of_ratings,
    human_values,
    rank_correlations,
    tables_of,
)
from synthmill.tasks.trust.measures import (
    VERDICTS,
    accuracy,
    both_ways,
    cohens_kappa,
    krippendorffs_alpha,
    resampled_sums,
    with_interval,
)
from synthmill.tasks.trust.trust import Trust, remarks

LABELS = {"prompt": pl.Int64, "first": pl.Int64, "second": pl.Int64, "value": pl.Float64, "annotator": pl.String}
RATINGS = pl.DataFrame(
    schema={"prompt": pl.Int64, "place": pl.Int64, "value": pl.Float64, "annotator": pl.String}, orient="row"
)


def table(people: list[int], scorer: list[int]) -> Any:
    counts = np.zeros((3, 3))
    np.add.at(counts, (np.array(people) + 1, np.array(scorer) + 1), 1)
    return counts


def alpha_by_hand(units: list[list[int]]) -> float:
    """1 - D_o / D_e over all pairs of values (Krippendorff 2011), interval metric."""
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(sum((a - b) ** 2 for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum((a - b) ** 2 for a, b in permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected if expected else float("nan")


def test_accuracy_counts_a_tie_of_the_scorer_half_and_leaves_out_those_of_people() -> None:
    counts = table([1, 1, -1, -1, 0, 0], [1, 0, -1, 1, 1, 0])
    assert accuracy(counts) == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert np.isnan(accuracy(table([0], [1])))


@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=2, max_size=30))
def test_kappa_and_alpha_are_those_of_the_formulas(pairs: list[tuple[int, int]]) -> None:
    people, scorer = map(list, zip(*pairs, strict=True))
    counts = table(people, scorer)
    if len({*people, *scorer}) > 1:
        assert cohens_kappa(counts) == pytest.approx(cohen_kappa_score(people, scorer), nan_ok=True)
        expected = alpha_by_hand([list(pair) for pair in pairs])
        assert krippendorffs_alpha(both_ways(counts)) == pytest.approx(expected)
    else:
        assert np.isnan(cohens_kappa(counts)) and np.isnan(krippendorffs_alpha(both_ways(counts)))


def answers(*pools: list[tuple[float | None, int]], own: tuple[int, ...] = ()) -> pl.DataFrame:
    """Pools of (score, length)."""
    rows = [
        {"prompt": prompt, "place": place, "length": length, "own": place in own, "judge": score}
        for prompt, pool in enumerate(pools)
        for place, (score, length) in enumerate(pool)
    ]
    return pl.DataFrame(rows, schema_overrides={"judge": pl.Float64})


def labels(*rows: tuple[int, int, int, int, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=LABELS, orient="row")


def test_several_annotators_have_one_verdict_and_an_alpha_of_their_own() -> None:
    said = labels((0, 0, 1, 1, "a"), (0, 1, 0, -1, "b"), (0, 0, 1, -1, "c"), (1, 0, 1, 1, "a"), (1, 1, 0, 1, "b"))
    pairs = comparisons_of(said, answers([(2, 5), (1, 5)], [(None, 5), (1, 5)]), ["judge"])
    assert pairs["people"].to_list() == [1, 0]  # two against one; one against one
    assert pairs["judge"].to_list() == [1, None]
    coincidences = coincidences_of(pairs, 2)
    assert krippendorffs_alpha(coincidences.sum(0)) == pytest.approx(alpha_by_hand([[1, 1, -1], [1, -1]]))
    assert tables_of(pairs, "judge", 2).sum() == 1  # what lacks a score is left out


def test_ratings_become_comparisons_of_each_annotator() -> None:
    ratings = pl.DataFrame(
        [(0, 0, 5.0, "a"), (0, 1, 3.0, "a"), (0, 2, 3.0, "a"), (0, 0, 1.0, "b")], schema=RATINGS.schema, orient="row"
    )
    pairs = comparisons_of_ratings(ratings).sort("first", "second")
    assert pairs.select("first", "second", "value").rows() == [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.0)]
    human = human_values(comparisons_of(pairs, answers([(1, 1), (2, 1), (3, 1)]), ["judge"]), ratings)
    assert human["human"].to_list() == [3.0, 3.0, 3.0]


def test_spearman_within_prompts_is_scipys() -> None:
    pools = [[(4, 1), (2, 1), (2, 1), (9, 1)], [(1, 1), (1, 1), (1, 1), (1, 1)], [(1, 1), (2, 1), (None, 1), (0, 1)]]
    human = [[1, 2, 3, 9], [1, 2, 3, 4], [1, 2, 3, 4]]
    frame = pl.DataFrame(
        [(n, place, float(value)) for n, pool in enumerate(human) for place, value in enumerate(pool)],
        schema={"prompt": pl.Int64, "place": pl.Int64, "human": pl.Float64},
        orient="row",
    )
    got = rank_correlations(frame, answers(*pools), "judge", 3)
    assert got[0] == pytest.approx([stats.spearmanr([4, 2, 2, 9], human[0]).statistic, 1])
    assert got[1].tolist() == [0, 0]  # no order
    assert got[2] == pytest.approx([stats.spearmanr([1, 2, 0], [1, 2, 4]).statistic, 1])


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    statistics = np.stack([values, np.ones(400)], 1)
    figure = with_interval(lambda sums: sums[..., 0] / sums[..., 1], statistics, resampled_sums(statistics, 4000))
    error = values.std() / 20
    assert figure["value"] == pytest.approx(values.mean())
    assert figure["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert figure["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert (resampled_sums(statistics, 10, 1) == resampled_sums(statistics, 10, 1)).all()


def trust(pools: list[Any], said: pl.DataFrame, **options: Any) -> dict[str, Any]:
    frame = answers(*pools, **options)
    return Trust(frame, comparisons_of(said, frame, ["judge"]), RATINGS, ["en", "de"] * (len(pools) // 2), 200).scorer(
        "judge"
    )


def test_a_scorer_that_loves_length_is_named() -> None:
    pools = [[(1, 10), (2, 300)]] * 40
    said = labels(*[(n, 0, 1, 1 if n % 2 else -1, "") for n in range(40)])
    row = trust(pools, said, own=(1,))
    assert row["accuracy"]["value"] == 0.5 and row["kappa"]["value"] == pytest.approx(0)
    sides = {side["side"]: side for side in row["sides"]}
    assert sides["longer"]["share"] == {"value": 1, "low": 1, "high": 1}
    assert sides["longer"]["above_people"]["value"] == 0.5 == sides["own"]["above_people"]["value"]
    assert sides["first"]["share"]["value"] == 0
    by = {(part["by"], part["slice"]): part for part in row["slices"]}
    assert by["length", "much longer"]["accuracy"]["value"] == 1 and by["length", "much shorter"]["comparisons"] == 20
    assert by["family", "own"]["accuracy"]["value"] == 1 and by["position", "earlier"]["accuracy"]["value"] == 0
    assert by["language", "de"]["accuracy"]["value"] == 0 and by["language", "en"]["accuracy"]["value"] == 1
    notes = remarks(row, {"missing": 2})
    assert "2 of 80 answers have no score" in notes[0]
    assert any("prefers the longer answer more often than people do, by 50.0%" in note for note in notes)


def test_a_scorer_that_always_says_the_same_is_named() -> None:
    row = trust([[(5, 10), (5, 300)]] * 4, labels((0, 0, 1, 1, "")))
    assert row["accuracy"]["value"] == 0.5 and row["ties"] == 1 and row["spearman"]["value"] is None
    assert "judge gives 5 to 100% of all answers" in remarks(row, {})[0]


def test_without_labels_sides_are_still_counted() -> None:
    row = trust([[(2, 10), (1, 300), (None, 5)]] * 20, labels())
    assert row["comparisons"] == 0 and row["accuracy"]["value"] is None and row["slices"] == []
    [first, longer] = row["sides"]
    assert (first["pairs"], first["share"]["value"], longer["share"]["value"]) == (20, 1, 0)
    assert "prefers the earlier answer in 100.0% of all pairs" in remarks(row, {})[0]
