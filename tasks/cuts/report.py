"""What a cut did: prompts by reason, the seven points, how often two of them are the same answer, rewards before and
after.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.cut_settings import CutSettings, Thresholds
from tasks.cores import Array
from tasks.cuts.points import POINTS
from tasks.cuts.rules import Cut, reason_counts

MOST_SAMPLED = 1 << 22  # rewards kept for the histogram
BINS, HUGE = 20, 1e300
BAR = 40
BOUND = 5  # answers: with so many or fewer, none lies below mean - 2 standard deviations (Samuelson)
OFTEN = 0.9
SKEWED = 0.5


class CutReport:
    """Fed batch by batch; `told` gives plain values, `lines` says them."""

    def __init__(self, settings: CutSettings) -> None:
        self.settings = settings
        self.reasons: Counter[str] = Counter()
        self.prompts = self.answers = self.compared = self.small = self.broken_off = 0
        self.means = np.zeros(len(POINTS))
        self.same = np.zeros((len(POINTS), len(POINTS)), np.int64)
        self.skewness = 0.0
        self.skewed = 0
        self.sampled: list[Array] = []
        self.every, self.low, self.high = 1, np.inf, -np.inf
        self.leaves_out: dict[str, int] = {}
        self.chosen: list[Array] = []
        self.rejected: list[Array] = []

    def add(self, made: Cut) -> None:
        """One batch, cut."""
        whole, seven = made.pools, made.seven
        self.prompts += len(whole)
        self.answers += len(whole.rewards)
        self.broken_off += made.broken_off
        self.reasons.update(reason_counts(made.reasons))
        counts = np.diff(whole.starts)
        there = (seven.places[:, 0] >= 0) & (counts > 1)
        places, starts = seven.places[there], whole.starts[:-1][there]
        self.compared += len(places)
        self.small += int((counts[there] <= BOUND).sum())
        for n in range(len(POINTS)):
            self.means[n] += whole.rewards[starts + places[:, n]].sum()
        for one, other in combinations(range(len(POINTS)), 2):
            self.same[one, other] += int((places[:, one] == places[:, other]).sum())
        skews = seven.skewness[there & ~np.isnan(seven.skewness)]
        self.skewness, self.skewed = self.skewness + float(skews.sum()), self.skewed + len(skews)
        rewards = whole.rewards[:: self.every]
        self.sampled.append(rewards[np.isfinite(rewards)])
        self.low = whole.rewards[starts + places[:, 0]].min(initial=self.low)
        self.high = whole.rewards[starts + places[:, -1]].max(initial=self.high)
        if sum(map(len, self.sampled)) > MOST_SAMPLED:
            self.sampled, self.every = [np.concatenate(self.sampled)[::2]], self.every * 2

    def keep(self, pairs: pa.Table) -> None:
        """Pairs that stay."""
        for into, name in ((self.chosen, "chosen_reward"), (self.rejected, "rejected_reward")):
            into.append(pairs[name].to_numpy())

    def told(self, faults: Mapping[str, int], pairs: int, limits: Thresholds | None = None) -> dict[str, Any]:
        """Everything, as plain values. pairs: those that the rule made, before limits."""
        kept = sum(map(len, self.chosen))
        of = max(1, self.compared)
        found: dict[str, Any] = {
            "rule": self.settings.label,
            "prompts": self.prompts,
            "answers": self.answers,
            "content_filter": self.broken_off,
            "unreadable": dict(faults),
            "dropped": dict(self.reasons),
            "pairs": pairs,
            "kept": kept,
            "kept_share": kept / pairs if pairs else 0.0,
            "leaves_out": self.leaves_out,
        }
        if limits:
            found["thresholds"] = limits.model_dump()
        if self.compared:
            found["mean_reward"] = dict(zip(POINTS, (self.means / of).tolist(), strict=True))
            found["same_answer"] = {
                f"{POINTS[one]} = {POINTS[other]}": int(self.same[one, other]) / of
                for one, other in combinations(range(len(POINTS)), 2)
            }
            found["pools_of_5_or_fewer"] = self.small / of
            found["mean_skewness"] = self.skewness / max(1, self.skewed)
        edges = bin_edges(np.concatenate([np.array([self.low, self.high]), *self.sampled[:1]]))
        if len(edges):
            found["histogram_of_one_in"] = self.every
            found["histogram"] = {"from": edges[:-1].tolist(), "to": float(edges[-1])} | {
                name: np.histogram(np.concatenate([np.zeros(0), *many]), edges)[0].tolist()
                for name, many in (("all", self.sampled), ("chosen", self.chosen), ("rejected", self.rejected))
            }
        return found


def bin_edges(rewards: Array) -> Array:
    """A bin per whole number where rewards are few whole numbers, as a judge's; else as many as a screen shows; none
    where numbers are too near to each other, or too far apart, to be told apart.
    """
    low, high = rewards.min(), rewards.max()
    if not np.isfinite(high) or max(abs(low), abs(high)) > HUGE:
        return np.zeros(0)
    if high - low < BINS and (rewards == np.round(rewards)).all():
        return np.arange(low, high + 2)
    edges = np.linspace(low, high, BINS + 1)
    return edges if (np.diff(edges) > 0).all() else np.zeros(0)


def in_words(told: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers mean for mean - 2 standard deviations."""
    same = told.get("same_answer", {}).get("min = mu-2s")
    if same is None:
        return
    small, skewness = told["pools_of_5_or_fewer"], told["mean_skewness"]
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


def broken_off_in_words(told: Mapping[str, Any]) -> str:
    return f"{told['content_filter']:,} answers were broken off by a content filter and are in no pair"


def lines(told: Mapping[str, Any], *, whole: bool = True) -> Iterator[str]:
    """The report for a terminal; without `whole`, only what differs from another rule's on the same pools."""
    yield f"{told['rule']}: {told['prompts']:,} prompts, {told['answers']:,} answers"
    for what, counts in (("not read", told["unreadable"]), ("without a pair", told["dropped"])):
        if counts:
            yield f"  {what}: {', '.join(f'{count:,} {reason}' for reason, count in counts.items())}"
    yield f"  {told['pairs']:,} pairs, {told['kept']:,} kept ({told['kept_share']:.1%})"
    if told.get("content_filter"):  # a report of an older version has none
        yield f"  {broken_off_in_words(told)}"
    if limits := told.get("thresholds"):
        fitted = limits["quantiles"]
        if limits["fitted_on"]:
            yield f"  limits fitted on {limits['fitted_on']}, {limits['pairs']:,} pairs"
        for name, sign in (("rejected_reward", ">="), ("rejected_length", ">="), ("gap", "<=")):
            if limits[name] is not None:
                how = f", its quantile {fitted[name]:g}" if name in fitted else ""
                how += f"; alone leaves out {told['leaves_out'][name]:,}" if name in told["leaves_out"] else ""
                unit = f" {limits['length']}" if name == "rejected_length" else ""
                yield f"  {name} {sign} {limits[name]:g}{unit}{how}"
    if slope := told.get("length"):
        yield (
            f"  length control: a character more was worth {slope['per_character']:.3g} and is worth nothing now; "
            f"length explained {slope['explained']:.1%} of the rewards' variance within pools"
        )
    for flag, count in told.get("flags", {}).items():
        yield f"  {count:,} answers are flagged {flag}"
    if not whole:
        return
    if "mean_reward" in told:
        yield "  mean reward of the seven points, and how often each is the lowest and the highest answer"
        same = told["same_answer"]
        for point, mean in told["mean_reward"].items():
            lowest, highest = same.get(f"min = {point}", 1.0), same.get(f"{point} = max", 1.0)
            yield f"    {point:<6} {mean:>12.5g} {lowest:>8.1%} {highest:>8.1%}"
        collapsed = sum(share > OFTEN for share in same.values())
        yield f"  {collapsed} of the {len(same)} pairings are the same answer for more than {OFTEN:.0%} of the prompts"
        yield from (f"  {line}" for line in in_words(told))
    if shown := told.get("histogram"):
        part = f" (one in {told['histogram_of_one_in']})" if told["histogram_of_one_in"] > 1 else ""
        yield f"  rewards: all answers{part}, then the chosen and the rejected of what is kept"
        yield f"    {'from':>10} {'':<{BAR}} {'all':>12} {'chosen':>10} {'rejected':>10}"
        most = max(shown["all"])
        sides = (shown[name] for name in ("from", "all", "chosen", "rejected"))
        for start, count, chosen, rejected in zip(*sides, strict=True):
            bar = "█" * round(BAR * count / most) or ("▏" if count else "")
            yield f"    {start:>10.4g} {bar:<{BAR}} {count:>12,} {chosen:>10,} {rejected:>10,}"
