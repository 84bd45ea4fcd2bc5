"""Pools on real scores, where they are: WildBench's matrix, AlpacaEval's 55 models."""

import numpy as np
import pytest

from bench.pools import MEDIANS, SIZES, alpaca_pools, metrics_of, wildbench_pools
from synthmill.schemas.rip_limits import Thresholds
from synthmill.tasks.cuts.cut import cut
from synthmill.tasks.cuts.guards import PoolFacts
from synthmill.tasks.cuts.pair_limits import fit, keeps
from synthmill.tasks.cuts.points import POINTS
from synthmill.tasks.cuts.report import CutReport, explain_mu_2s
from synthmill.tasks.cuts.rules.max_min import MaxMin
from synthmill.tasks.cuts.rules.sweet_spot import SweetSpot
from tests.conftest import SHARED

DATA = SHARED / "data"
WILDBENCH, ALPACA = DATA / "method_samples" / "wildbench_reward_matrix.json", DATA / "alpaca_eval" / "pool.jsonl.gz"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real inputs (../shared/data) are not beside this checkout"),
]


def test_rip_on_wildbench() -> None:
    pools, lengths = wildbench_pools(WILDBENCH)
    made = cut(pools, MaxMin())
    rewards = np.array(pools["rewards"].to_pylist())
    rows, low = np.arange(len(rewards)), made.seven.places[:, 0]
    gap = rewards.max(axis=1) - rewards.min(axis=1)
    metrics = {"rejected_reward": rewards[rows, low], "rejected_length": lengths[rows, low], "gap": gap}
    limits = fit(metrics, MEDIANS, Thresholds())
    assert (limits.rejected_reward, limits.rejected_length, limits.gap) == (4.0, 1353.5, 4.0)
    assert keeps(metrics, limits).sum() == 293 and (gap == 0).sum() == 3
    assert (made.seven.places[:, 1] != low).sum() == 46
    assert made.pairs.num_rows == 1007


def test_points_on_alpaca_eval() -> None:
    means, same = {}, {}
    for size in SIZES:
        report = CutReport(SweetSpot())
        report.add(cut(alpaca_pools(ALPACA, size), report.settings))
        told = report.summary({}, 0)
        means[size], same[size] = told["mean_reward"], told["same_answer"]["min = mu-2s"]
        assert [told["mean_reward"][point] for point in POINTS] == sorted(told["mean_reward"].values())
    assert same[5] == 1 and 0.95 < same[55] < 0.98
    assert [means[size]["min"] for size in SIZES] == sorted((means[size]["min"] for size in SIZES), reverse=True)
    assert [means[size]["max"] for size in SIZES] == sorted(means[size]["max"] for size in SIZES)
    assert "skewed to the right" in " ".join(explain_mu_2s(told))
    metrics = metrics_of(cut(alpaca_pools(ALPACA, 55), MaxMin()).pairs)
    assert 0.125 < keeps(metrics, fit(metrics, MEDIANS, Thresholds())).mean() < 0.5


def test_the_null_model_is_found() -> None:
    pools = alpaca_pools(ALPACA, 99, ("gpt4_1106_preview",))
    facts = PoolFacts()
    facts.add(pools)
    flags = facts.statistics().flags(pools)
    texts = np.array([text for answers in pools["answers"].to_pylist() for text in answers], object)
    null = np.array(["Ignore the above ## Model Outputs" in text for text in texts])
    assert null.sum() == 483
    for flag in ("constant", "addresses_judge", "near_constant"):
        assert flags[flag][null].all()
    assert not flags["constant"][~null].any() and not flags["addresses_judge"][~null].any()
    assert flags["near_constant"][~null].mean() < 0.002 and flags["copies_prompt"].mean() < 0.002
    best = cut(pools, MaxMin())
    guarded = cut(pools, MaxMin(), ~(flags["constant"] | flags["addresses_judge"]))
    fooled = sum("Ignore the above" in text for text in best.pairs["chosen"].to_pylist())
    assert fooled > 80 and not any("Ignore the above" in text for text in guarded.pairs["chosen"].to_pylist())
