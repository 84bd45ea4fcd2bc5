"""What a cut did: prompts by reason, the seven points, how often two of them are the same answer, rewards before and
after.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from synthmill.schemas.rip_limits import Thresholds
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.cut import Cut, CutSettings, reason_counts
from synthmill.tasks.cuts.points import POINTS

MOST_SAMPLED = 1 << 22  # rewards kept for the histogram
BINS, HUGE = 20, 1e300
BAR = 40
BOUND = 5  # answers: with so many or fewer, none lies below mean - 2 standard deviations (Samuelson)
OFTEN = 0.9
SKEWED = 0.5


class CutReport:
    """Collects what a cut did, batch by batch; `summary` returns it as plain values."""

    def __init__(self, settings: CutSettings) -> None:
        self.settings = settings
        self.reasons: Counter[str] = Counter()
        self.prompts = self.answers = self.compared = self.small = self.broken_off = self.cut_short = 0
        self.means = np.zeros(len(POINTS))
        self.same = np.zeros((len(POINTS), len(POINTS)), np.int64)
        self.skewness = 0.0
        self.skewed = 0
        self.sampled: list[Array] = []
        self.every, self.low, self.high = 1, np.inf, -np.inf
        self.leaves_out: dict[str, int] = {}
        self.chosen: list[Array] = []
        self.rejected: list[Array] = []

    def add(self, batch: Cut) -> None:
        """Add the cut of one batch."""
        pools, seven = batch.pools, batch.seven
        self.prompts += len(pools)
        self.answers += len(pools.rewards)
        self.broken_off += batch.broken_off
        self.cut_short += batch.cut_short
        self.reasons.update(reason_counts(batch.reasons))
        counts = np.diff(pools.starts)
        comparable = (seven.places[:, 0] >= 0) & (counts > 1)
        places, starts = seven.places[comparable], pools.starts[:-1][comparable]
        self.compared += len(places)
        self.small += int((counts[comparable] <= BOUND).sum())
        for n in range(len(POINTS)):
            self.means[n] += pools.rewards[starts + places[:, n]].sum()
        for point, other_point in combinations(range(len(POINTS)), 2):
            self.same[point, other_point] += int((places[:, point] == places[:, other_point]).sum())
        skews = seven.skewness[comparable & ~np.isnan(seven.skewness)]
        self.skewness, self.skewed = self.skewness + float(skews.sum()), self.skewed + len(skews)
        rewards = pools.rewards[:: self.every]
        self.sampled.append(rewards[np.isfinite(rewards)])
        self.low = pools.rewards[starts + places[:, 0]].min(initial=self.low)
        self.high = pools.rewards[starts + places[:, -1]].max(initial=self.high)
        if sum(map(len, self.sampled)) > MOST_SAMPLED:
            self.sampled, self.every = [np.concatenate(self.sampled)[::2]], self.every * 2

    def keep(self, pairs: pa.Table) -> None:
        """Add pairs that stay."""
        for into, name in ((self.chosen, "chosen_reward"), (self.rejected, "rejected_reward")):
            into.append(pairs[name].to_numpy())

    def summary(self, faults: Mapping[str, int], pairs: int, limits: Thresholds | None = None) -> dict[str, Any]:
        """Everything, as plain values. pairs: those that the rule made, before limits."""
        kept = sum(map(len, self.chosen))
        of = max(1, self.compared)
        summary: dict[str, Any] = {
            "rule": self.settings.label,
            "prompts": self.prompts,
            "answers": self.answers,
            "content_filter": self.broken_off,
            "cut_short": self.cut_short,
            "unreadable": dict(faults),
            "dropped": dict(self.reasons),
            "pairs": pairs,
            "kept": kept,
            "kept_share": kept / pairs if pairs else 0.0,
            "leaves_out": self.leaves_out,
        }
        if limits:
            summary["thresholds"] = limits.model_dump()
        if self.compared:
            summary["mean_reward"] = dict(zip(POINTS, (self.means / of).tolist(), strict=True))
            summary["same_answer"] = {
                f"{POINTS[point]} = {POINTS[other_point]}": int(self.same[point, other_point]) / of
                for point, other_point in combinations(range(len(POINTS)), 2)
            }
            summary["pools_of_5_or_fewer"] = self.small / of
            summary["mean_skewness"] = self.skewness / max(1, self.skewed)
        edges = bin_edges(np.concatenate([np.array([self.low, self.high]), *self.sampled[:1]]))
        if len(edges):
            summary["histogram_of_one_in"] = self.every
            summary["histogram"] = {"from": edges[:-1].tolist(), "to": float(edges[-1])} | {
                name: np.histogram(np.concatenate([np.zeros(0), *arrays]), edges)[0].tolist()
                for name, arrays in (("all", self.sampled), ("chosen", self.chosen), ("rejected", self.rejected))
            }
        return summary


def bin_edges(rewards: Array) -> Array:
    """Edges of the histogram's bins: one per whole number where rewards are few whole numbers, as a judge's; else BINS.

    There are none where rewards are so close together, or so large, that floats cannot separate the edges.
    """
    low, high = rewards.min(), rewards.max()
    if not np.isfinite(high) or max(abs(low), abs(high)) > HUGE:
        return np.zeros(0)
    if high - low < BINS and (rewards == np.round(rewards)).all():
        return np.arange(low, high + 2)
    edges = np.linspace(low, high, BINS + 1)
    return edges if (np.diff(edges) > 0).all() else np.zeros(0)


def explain_mu_2s(report: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers mean for mean - 2 standard deviations."""
    same = report.get("same_answer", {}).get("min = mu-2s")
    if same is None:
        return
    small, skewness = report["pools_of_5_or_fewer"], report["mean_skewness"]
    yield f"the answer nearest to mu-2s is the minimum itself for {same:.1%} of the prompts"
    if small:
        yield (
            f"{small:.1%} of the pools have {BOUND} answers or fewer, where no reward lies below mu-2s (Samuelson's "
            "bound): there both are always the same"
        )
    if same > OFTEN and skewness > SKEWED:
        yield (
            f"the rewards are skewed to the right (mean skewness {skewness:.2f}: many low ones, few high ones), so "
            "mu-2s lies below the lowest of them: as a rejected point it is max-min in all but name; the scalable "
            "rule, or mu-s, is another choice"
        )
    elif same > OFTEN:
        yield "as a rejected point mu-2s is here max-min in all but name; it may differ in larger pools"


def describe_ends(report: Mapping[str, Any]) -> Iterator[str]:
    """Which answers took no part because of how they ended; reports of older versions say less."""
    if count := report.get("content_filter"):
        yield f"{count:,} answers were broken off by a content filter and are in no pair"
    if count := report.get("cut_short"):
        yield f"{count:,} answers were cut at max_tokens and are in no pair (cut_answers=take takes them)"


def report_lines(report: Mapping[str, Any], *, complete: bool = True) -> Iterator[str]:
    """The report for a terminal; without `complete`, only what differs from another rule's on the same pools."""
    yield f"{report['rule']}: {report['prompts']:,} prompts, {report['answers']:,} answers"
    for what, counts in (("not read", report["unreadable"]), ("without a pair", report["dropped"])):
        if counts:
            yield f"  {what}: {', '.join(f'{count:,} {reason}' for reason, count in counts.items())}"
    yield f"  {report['pairs']:,} pairs, {report['kept']:,} kept ({report['kept_share']:.1%})"
    yield from (f"  {line}" for line in describe_ends(report))
    if limits := report.get("thresholds"):
        fitted = limits["quantiles"]
        if limits["fitted_on"]:
            yield f"  limits fitted on {limits['fitted_on']}, {limits['pairs']:,} pairs"
        for name, sign in (("rejected_reward", ">="), ("rejected_length", ">="), ("gap", "<=")):
            if limits[name] is not None:
                how = f", its quantile {fitted[name]:g}" if name in fitted else ""
                how += f"; alone leaves out {report['leaves_out'][name]:,}" if name in report["leaves_out"] else ""
                unit = f" {limits['length']}" if name == "rejected_length" else ""
                yield f"  {name} {sign} {limits[name]:g}{unit}{how}"
    if slope := report.get("length"):
        yield (
            f"  length control: a character more was worth {slope['per_character']:.3g} and is worth nothing now; "
            f"length explained {slope['explained']:.1%} of the rewards' variance within pools"
        )
    for flag, count in report.get("flags", {}).items():
        yield f"  {count:,} answers are flagged {flag}"
    if not complete:
        return
    if "mean_reward" in report:
        yield "  mean reward of the seven points, and how often each is the lowest and the highest answer"
        same = report["same_answer"]
        for point, mean in report["mean_reward"].items():
            lowest, highest = same.get(f"min = {point}", 1.0), same.get(f"{point} = max", 1.0)
            yield f"    {point:<6} {mean:>12.5g} {lowest:>8.1%} {highest:>8.1%}"
        collapsed = sum(share > OFTEN for share in same.values())
        yield f"  {collapsed} of the {len(same)} pairings are the same answer for more than {OFTEN:.0%} of the prompts"
        yield from (f"  {line}" for line in explain_mu_2s(report))
    if histogram := report.get("histogram"):
        part = f" (one in {report['histogram_of_one_in']})" if report["histogram_of_one_in"] > 1 else ""
        yield f"  rewards: all answers{part}, then the chosen and the rejected of what is kept"
        yield f"    {'from':>10} {'':<{BAR}} {'all':>12} {'chosen':>10} {'rejected':>10}"
        most = max(histogram["all"])
        sides = (histogram[name] for name in ("from", "all", "chosen", "rejected"))
        for start, count, chosen, rejected in zip(*sides, strict=True):
            bar = "█" * round(BAR * count / most) or ("▏" if count else "")
            yield f"    {start:>10.4g} {bar:<{BAR}} {count:>12,} {chosen:>10,} {rejected:>10,}"
