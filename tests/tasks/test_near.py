"""Near-duplicates among vectors and word sets: against brute force, in any order, spread or not; the recall stated."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.schemas.recall import EXACT, Recall
from synthmill.storage.artifacts import Store
from synthmill.tasks.dedup.duplicates import readable
from synthmill.tasks.dedup.greedy import Verdicts, first_alike, greedy, recall_of_duplicates
from synthmill.tasks.dedup.word_grams import GRAM, WordLinks, grams_of, tokens_of
from synthmill.tasks.frames import run_locally
from synthmill.tasks.running.parallel import RayPool
from synthmill.tasks.vectors.buckets import estimate_recall, lay_out
from synthmill.tasks.vectors.layouts import ExactLayout
from synthmill.tasks.vectors.links import (
    ANY,
    LISTED,
    Array,
    Links,
    Matrix,
    Search,
    SpreadContext,
    links_in,
    map_blocks,
)
from synthmill.tasks.vectors.short import DIMENSIONS, shortened

THRESHOLD = 0.9


def clusters(rows: int, seed: int = 0, dimensions: int = 32) -> Array:
    """Unit vectors around a few centres, a fifth of them twins of others at cosines from .85 to .95."""
    draw = np.random.default_rng(seed)

    def unit(count: int) -> Array:
        made = draw.standard_normal((count, dimensions)).astype(np.float32)
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))

    base = rows * 4 // 5
    centres = unit(max(4, rows // 100))
    vectors = 0.6 * centres[draw.integers(len(centres), size=base)] + 0.8 * unit(base)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = vectors[draw.integers(base, size=rows - base)]
    other = unit(rows - base)
    other -= (other * first).sum(1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    cosine = draw.uniform(0.85, 0.95, (rows - base, 1)).astype(np.float32)
    return np.asarray(
        np.concatenate([vectors, cosine * first + np.sqrt(1 - cosine**2) * other])[draw.permutation(rows)]
    )


def true_pairs(vectors: Array) -> set[tuple[int, int]]:
    cosines = np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 6)
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(cosines >= THRESHOLD), strict=True) if i > j}


def kept_by_force(count: int, pairs: set[tuple[int, int]]) -> list[bool]:
    kept: list[bool] = []
    for row in range(count):
        kept.append(not any(kept[other] for other in range(row) if (row, other) in pairs))
    return kept


def searched(matrix: Matrix, layout: object, helpers: SpreadContext | None = None) -> Links:
    everyone = np.ones(matrix.rows, np.bool_)
    return links_in(Search(matrix, layout, THRESHOLD, everyone, everyone), helpers)  # type: ignore[arg-type]


def verdicts_of(matrix: Matrix, layout: object) -> Verdicts:
    return greedy(
        matrix.rows,
        0,
        [lambda asked, alive: links_in(Search(matrix, layout, THRESHOLD, asked, alive))],  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_exact_search_finds_what_brute_force_finds(precision: str) -> None:
    vectors = clusters(700).astype(precision)
    found = searched(Matrix.of(vectors), ExactLayout(700))
    truth = true_pairs(vectors.astype(np.float32))
    assert len(truth) > 50
    assert set(zip(found.row.tolist(), found.neighbour.tolist(), strict=True)) == truth
    kept = verdicts_of(Matrix.of(vectors), ExactLayout(700)).duplicate_of < 0
    assert kept.tolist() == kept_by_force(700, truth)


def test_buckets_find_the_recall_they_state_and_narrow_ones_state_less() -> None:
    vectors = clusters(4000, dimensions=16)
    matrix, truth = Matrix.of(vectors), true_pairs(vectors)
    shares = []
    for wanted in (0.999, 0.6):
        plan = lay_out(matrix, THRESHOLD, wanted, 2000, 0, exact_up_to=0)
        found = searched(matrix, plan.layout)
        pairs = set(zip(found.row.tolist(), found.neighbour.tolist(), strict=True))
        assert pairs <= truth  # what is found is measured: nothing is false
        shares.append(len(pairs) / len(truth))
        assert plan.recall.low - 0.02 <= shares[-1] <= plan.recall.high + 0.02
        assert plan.recall.pairs > 100
    assert shares[0] >= 0.995
    assert shares[0] > shares[1]


def test_the_same_seed_gives_the_same_buckets_and_another_layout_the_same_verdicts() -> None:
    matrix = Matrix.of(clusters(1500))
    plans = [lay_out(matrix, THRESHOLD, 0.995, 1500, seed, exact_up_to=0) for seed in (0, 0, 7)]
    assert all(np.array_equal(one, other) for one, other in zip(plans[0].layout, plans[1].layout, strict=True))  # type: ignore[call-overload]
    kept = [(verdicts_of(matrix, plan.layout).duplicate_of < 0).tolist() for plan in plans]
    assert kept[0] == kept[1] == kept[2] == (verdicts_of(matrix, ExactLayout(1500)).duplicate_of < 0).tolist()


def test_spread_over_workers_or_not_the_links_are_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", clusters(1500))
    matrix = Matrix.of(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    helpers = SpreadContext(run_locally, tmp_path)
    plan = lay_out(matrix, THRESHOLD, 0.995, 500, 0, exact_up_to=0, workers=helpers)
    assert plan.recall == lay_out(matrix, THRESHOLD, 0.995, 500, 0, exact_up_to=0).recall
    for layout in (plan.layout, ExactLayout(1500)):
        alone, spread = searched(matrix, layout), searched(matrix, layout, helpers)
        assert all(np.array_equal(one, other) for one, other in zip(alone, spread, strict=True))


def test_new_rows_are_compared_with_all_and_known_rows_with_none_of_each_other() -> None:
    known, vectors = 3000, clusters(4000, dimensions=16)
    matrix = Matrix.of(vectors)
    truth = {(row, other) for row, other in true_pairs(vectors) if row >= known}
    plan = lay_out(matrix, THRESHOLD, 0.999, 900, 0, exact_up_to=0, fixed=known)
    is_new, everyone = np.arange(4000) >= known, np.ones(4000, np.bool_)
    links = links_in(Search(matrix, plan.layout, THRESHOLD, is_new, everyone))
    pairs = set(zip(links.row.tolist(), links.neighbour.tolist(), strict=True))
    assert pairs <= truth and len(pairs) >= 0.98 * len(truth) > 100
    assert plan.recall.low - 0.02 <= len(pairs) / len(truth) and plan.recall.rows <= 900
    assert plan.sample.min() >= known and set(plan.pairs[0].tolist()) <= set(plan.sample.tolist())
    assert len(plan.layout.work) < len(lay_out(matrix, THRESHOLD, 0.999, 900, 0, exact_up_to=0).layout.work)
    by_bucket = Search(matrix, plan.layout, THRESHOLD, is_new, everyone)
    kept = greedy(4000, known, [lambda rows, alive: links_in(by_bucket._replace(queries=rows, alive=alive))])
    exact = lay_out(matrix, THRESHOLD, 0.999, 2000, 0, exact_up_to=0, fixed=known)  # the sample would take as long
    assert isinstance(exact.layout, ExactLayout) and exact.recall == EXACT
    by_force = Search(matrix, exact.layout, THRESHOLD, is_new, everyone)
    truly = greedy(4000, known, [lambda rows, alive: links_in(by_force._replace(queries=rows, alive=alive))])
    assert (kept.duplicate_of[:known] < 0).all() and (truly.duplicate_of >= 0).sum() > 50
    assert ((kept.duplicate_of >= 0) == (truly.duplicate_of >= 0)).mean() > 0.995


def around(count: int, cosine: float, seed: int, dimensions: int = 384) -> Array:
    """Unit vectors around one centre, any two of them with about this cosine."""
    draw = np.random.default_rng(seed)
    centre, own = draw.standard_normal((1, dimensions)), draw.standard_normal((count, dimensions))
    centre /= np.linalg.norm(centre)
    own -= (own @ centre.T) * centre
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return np.asarray(cosine**0.5 * centre + (1 - cosine) ** 0.5 * own, np.float32)


def test_short_vectors_come_near_where_whole_ones_do() -> None:
    vectors = around(2000, 0.9, seed=3)
    near = shortened(Matrix.of(vectors), 0.9)
    assert near is not None and near.matrix.vectors.shape == (2000, DIMENSIONS)
    short = near.matrix.take(np.arange(2000))
    cosines = (short @ short.T)[np.triu_indices(2000, 1)]
    whole = (vectors @ vectors.T)[np.triu_indices(2000, 1)]
    assert near.lowest == pytest.approx(0.744, abs=1e-3)
    assert (cosines[whole >= 0.9] < near.lowest).mean() < 1e-4
    same = Matrix.of(np.concatenate([vectors, vectors]))
    alike = Search(same, ExactLayout(4000), 1.0, np.ones(4000, np.bool_), np.ones(4000, np.bool_), shortened(same, 1.0))
    assert len(links_in(alike).row) == 2000  # rounding parts no row from its copy
    assert shortened(Matrix.of(vectors[:, :100]), 0.9) is None  # they would be no shorter
    assert shortened(Matrix.of(vectors), 0.7) is None  # too many pairs would come near


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_search_by_short_vectors_finds_what_brute_force_finds(precision: str, tmp_path: Path) -> None:
    """Twins, a cluster of duplicates larger than a tile lists, and one whose rows only look alike when short."""
    parts = [clusters(2000, dimensions=384), around(300, 0.95, seed=1), around(300, 0.85, seed=2)]
    order = np.random.default_rng(4).permutation(2600)
    np.save(tmp_path / "vectors.npy", np.concatenate(parts)[np.argsort(order)].astype(precision))
    matrix = Matrix.of(np.load(tmp_path / "vectors.npy", mmap_mode="r"), order)
    helpers = SpreadContext(run_locally, tmp_path)
    plan = lay_out(matrix, THRESHOLD, 0.999, 1000, 0, exact_up_to=0)
    spread = lay_out(matrix, THRESHOLD, 0.999, 1000, 0, exact_up_to=0, workers=helpers)
    assert plan.near is not None and plan.near.listed < 299 and plan.recall == spread.recall
    everyone = np.ones(2600, np.bool_)
    search = Search(matrix, plan.layout, THRESHOLD, everyone, everyone, plan.near)
    links, elsewhere = links_in(search), links_in(search._replace(near=spread.near), helpers)
    assert all(np.array_equal(part, other) for part, other in zip(links, elsewhere, strict=True))
    rows = matrix.take(np.arange(2600))
    truth = true_pairs(rows)
    assert set(zip(links.row.tolist(), links.neighbour.tolist(), strict=True)) <= truth
    assert np.bincount(links.row).max() <= LISTED * len(plan.layout.work) and len(links.more) > 100
    kept = greedy(2600, 0, [lambda asked, alive: links_in(search._replace(queries=asked, alive=alive))])
    by_force = np.array(kept_by_force(2600, truth))
    assert ((kept.duplicate_of < 0) == by_force).mean() > 0.999
    similar = kept.duplicate_of >= 0
    assert (kept.similarity[similar] >= THRESHOLD).all() and 300 < similar.sum() < 1000


def test_two_matrices_over_one_file_are_two_for_workers(tmp_path: Path) -> None:
    """The ranks of a matrix change when texts without a vector leave it."""
    np.save(tmp_path / "vectors.npy", clusters(600))
    helpers = SpreadContext(run_locally, tmp_path)
    every = Matrix.of(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    odd = Matrix.of(every.vectors, every.order[1::2])
    for matrix in (every, odd):
        [ranks] = map_blocks(matrix, readable, workers=helpers)
        assert np.sort(ranks).tolist() == list(range(matrix.rows))
        whole = searched(matrix, ExactLayout(matrix.rows))
        spread = searched(matrix, ExactLayout(matrix.rows), helpers)
        assert len(whole.row) and np.array_equal(whole.row, spread.row)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.ray
def test_ray_workers_find_the_same_and_a_dead_one_is_replaced(store: Store) -> None:
    np.save(store.root / "vectors.npy", clusters(1500))
    matrix = Matrix.of(np.load(store.root / "vectors.npy", mmap_mode="r"))
    layout = lay_out(matrix, THRESHOLD, 0.995, 500, 0, exact_up_to=0).layout
    pool = RayPool(store, "run", threading.Event(), 2, None)
    try:
        spread = searched(matrix, layout, SpreadContext(pool.map_unordered, store.root))
        assert np.array_equal(spread.row, searched(matrix, layout).row)
        marks = [store.root / f"mark-{n}" for n in range(4)]
        assert sorted(pool.map_unordered(dies_once, [(mark,) for mark in marks])) == sorted(map(str, marks))
    finally:
        pool.close()


def dies_once(mark: Path) -> str:
    import os

    if mark.name == "mark-1" and not mark.exists():
        mark.touch()
        os._exit(1)
    return str(mark)


def test_greedy_keeps_both_ends_of_a_chain() -> None:
    angles = np.deg2rad([0, 20, 40])  # neighbours: cosine .94; ends: .77
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert first_alike(chain, THRESHOLD).tolist() == [-1, 0, -1]
    assert first_alike(chain[[1, 0, 2]], THRESHOLD).tolist() == [-1, 0, 0]


@given(st.permutations(range(12)))
@settings(max_examples=20)
def test_a_better_rank_decides_and_nothing_else(order: list[int]) -> None:
    vectors = clusters(12, seed=3, dimensions=4)
    place = np.array(order)
    shuffled = Matrix.of(vectors[place], order=np.argsort(place))
    assert np.array_equal(verdicts_of(shuffled, ExactLayout(12)).duplicate_of, first_alike(vectors, THRESHOLD))


def test_more_neighbours_than_are_listed_settle_in_rounds() -> None:
    draw = np.random.default_rng(0)
    crowd = draw.standard_normal((2500, 16)).astype(np.float32) * 0.14
    crowd[:, 0] += 2  # most are within .9 of each other, many not
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    matrix, truth = Matrix.of(crowd), true_pairs(crowd)
    assert len(truth) > 100_000
    rounds = []

    def layer(asked: Array, alive: Array) -> Links:
        rounds.append(int(asked.sum()))
        found = links_in(Search(matrix, ExactLayout(2500), THRESHOLD, asked, alive))
        assert len(found.row) <= len(crowd) * (LISTED + 1) * 10  # memory does not grow with the pairs
        return found

    kept = greedy(2500, 0, [layer]).duplicate_of < 0
    assert kept.tolist() == kept_by_force(2500, truth)
    assert rounds[0] == 2500


def test_candidates_just_below_the_threshold_hide_none_above_it() -> None:
    angle = np.arccos(THRESHOLD - 1e-5)  # within the slack of a float32 product, and no duplicate
    below = [[np.cos(angle), np.sin(angle), 0.0]] * (LISTED + 3)
    above = [[0.95, 0.0, -np.sqrt(1 - 0.95**2)]]
    matrix = Matrix.of(np.array([*below, *above, [1.0, 0.0, 0.0]], np.float32))
    fixed = len(below) + 1
    found = greedy(
        matrix.rows,
        fixed,
        [lambda asked, alive: links_in(Search(matrix, ExactLayout(matrix.rows), THRESHOLD, asked, alive))],
    )
    assert found.duplicate_of[-1] == len(below)
    alone = Matrix.of(np.array([*below, [1.0, 0.0, 0.0]], np.float32))
    found = greedy(
        alone.rows,
        fixed - 1,
        [lambda asked, alive: links_in(Search(alone, ExactLayout(alone.rows), THRESHOLD, asked, alive))],
    )
    assert found.duplicate_of[-1] == -1  # and it ends


def test_only_rows_of_one_group_are_alike_and_any_is_of_all() -> None:
    same = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    groups = np.array([0, 1, 0, ANY], np.int32)
    found = searched(Matrix.of(same, groups=groups), ExactLayout(4))
    assert list(zip(found.row.tolist(), found.neighbour.tolist(), strict=True)) == [(2, 0), (3, 0), (3, 1), (3, 2)]
    texts = ["one two three four"] * 4
    groups = np.array([ANY, 0, 1, 0], np.int32)
    words = WordLinks(texts, groups, 0.7, 0)(np.array([False, True, True, True]), np.ones(4, np.bool_))
    assert list(zip(words.row.tolist(), words.neighbour.tolist(), strict=True)) == [(1, 0), (2, 0), (3, 0), (3, 1)]


def test_vectors_of_nothing_are_like_nobody() -> None:
    vectors = np.zeros((5, 3), np.float32)
    vectors[4] = (1, 0, 0)
    assert first_alike(vectors, 0.1).tolist() == [-1] * 5
    assert first_alike(np.zeros((0, 3), np.float32), 0.9).tolist() == []
    assert first_alike(np.zeros((1, 3), np.float32), 0.9).tolist() == [-1]


def test_the_interval_is_wilsons_for_single_pairs_and_wider_for_pairs_that_hang_together() -> None:
    found = np.arange(200) != 0
    single = estimate_recall(np.arange(200), found, 1000)
    assert (round(single.share, 4), round(single.low, 4), round(single.high, 4)) == (0.995, 0.9722, 0.9991)
    crowded = estimate_recall(np.repeat(np.arange(20), 10), found, 1000)
    assert crowded.share == single.share
    assert crowded.low < single.low
    none = estimate_recall(np.zeros(0, np.int32), np.zeros(0, np.bool_), 50)
    assert (none.low, none.high, none.pairs) == (0, 1, 0)
    assert str(none) == "unknown: none of 50 rows that were compared with all has a neighbour"
    assert str(EXACT) == "exact"
    assert str(single) == "0.9950 (0.9722 to 0.9991: 200 pairs of 1,000 rows)"


def test_duplicates_that_were_left_are_counted() -> None:
    verdicts = Verdicts(np.array([-1, 0, -1, -1]), np.zeros(4), np.zeros(4, np.int8))
    pairs = np.array([1, 2, 3]), np.array([0, 0, 1])  # 2 stays beside 0: left; 3 is like 1 only, which went
    assert recall_of_duplicates(pairs, np.arange(4), verdicts)[:1] == (0.5,)
    assert isinstance(recall_of_duplicates(pairs, np.arange(4), verdicts), Recall)


def test_word_sets_are_measured_exactly() -> None:
    texts = [
        "Write a short poem about the sea at night please",
        "Write a short poem about the sea at night please!",
        "write a short poem about THE sea at night, kindly",
        "Compute a + b for me now please",
        "Compute a - b for me now please",
        "???",
        "!!!",
        "",
        "今天天气怎么样请告诉我一下",
        "今天天气怎么样请告诉我吧",
    ]
    sets = [set(zip(*(tokens_of(text)[n:] for n in range(GRAM)), strict=False)) for text in texts]
    everyone = np.ones(len(texts), np.bool_)
    found = WordLinks(texts, np.zeros(len(texts), np.int32), 0.5, 0)(everyone, everyone)
    there = dict(zip(zip(found.row.tolist(), found.neighbour.tolist(), strict=True), found.similarity, strict=True))
    for row in range(len(texts)):
        for other in range(row):
            one, two = sets[row], sets[other]
            share = len(one & two) / len(one | two) if one and two else 0
            assert there.get((row, other), 0) == pytest.approx(share if share >= 0.5 else 0)
    assert {(1, 0), (2, 0), (9, 8)} <= there.keys()
    assert (4, 3) not in there


def test_minhash_proposes_nearly_all_pairs_over_the_threshold() -> None:
    draw = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(3000)])
    base = [list(draw.choice(words, size)) for size in draw.integers(8, 30, 1500)]
    changed = [[word if draw.random() > 0.04 else "x" for word in base[n]] for n in draw.integers(1500, size=500)]
    texts = [" ".join(text) for text in base + changed]
    grams = grams_of(texts, GRAM)
    sets = [set(grams.hashes[grams.starts[n] : grams.starts[n + 1]].tolist()) for n in range(len(texts))]
    everyone = np.ones(len(texts), np.bool_)
    found = WordLinks(texts, np.zeros(len(texts), np.int32), 0.7, 0)(everyone, everyone)
    truth = {
        (row, other)
        for row in range(len(texts))
        for other in range(row)
        if sets[row] & sets[other] and len(sets[row] & sets[other]) / len(sets[row] | sets[other]) >= 0.7
    }
    pairs = set(zip(found.row.tolist(), found.neighbour.tolist(), strict=True))
    assert pairs <= truth
    assert len(truth) > 200
    assert len(pairs) >= 0.995 * len(truth)


def test_texts_without_a_word_have_no_grams() -> None:
    grams = grams_of(["", " ", "a"], GRAM)
    assert grams.starts.tolist() == [0, 0, 0, 1]
    assert grams_of([], GRAM).starts.tolist() == [0]
    nobody = WordLinks([], np.zeros(0, np.int32), 0.7, 0)(np.zeros(0, np.bool_), np.zeros(0, np.bool_))
    assert len(nobody.row) == 0
