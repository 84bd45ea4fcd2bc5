"""Pairs from pools: one pool of answers with rewards, many rules.

Source: docs/papers.md#rip, #sweet-spot.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthmill.schemas.cut_settings import POINT_ORDER, CutSettings
from synthmill.schemas.endings import ending_of
from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cores import Array, on_all_cores
from synthmill.tasks.cuts.points import (
    Pools,
    SevenPoints,
    mark_drawn,
    mark_ordered,
    mark_other,
    mark_pairs,
    mark_tournament,
    seven_points,
)

REASONS = ("", "n<2", "nan_reward", "equal_reward", "same_text", "all_flagged", "content_filter")
KEPT, TOO_FEW, NAN, EQUAL, SAME_TEXT, FLAGGED, BROKEN_OFF = range(len(REASONS))
SIDES = ("chosen", "rejected")
NOT_CARRIED = ("answers", "rewards", "finish_reasons")


class Places(NamedTuple):
    """What a rule picks. chosen, rejected: (pools, pairs) places in their pools, -1 for none; evidence: named columns,
    a value per pool.
    """

    chosen: Array
    rejected: Array
    evidence: dict[str, Any]


class Cut(NamedTuple):
    """What a rule made of a table.

    pairs: a row per pair, in the order of the pools; reasons: (pools,) numbers of REASONS; pools: the answers that took
    part; seven: their points; evidence: the names of the rule's own columns; broken_off: how many answers a content
    filter ended.
    """

    pairs: pa.Table
    reasons: Array
    pools: Pools
    seven: SevenPoints
    evidence: tuple[str, ...]
    broken_off: int


def cut(table: pa.Table, settings: CutSettings, usable: Array | None = None) -> Cut:
    """Pairs of pools by one rule.

    table: `prompt_id`, `answers` (lists of texts), `rewards` (lists of numbers, of the same lengths), and columns to
    carry over. `finish_reasons`, where it is there (lists of texts, of the same lengths): answers that a content filter
    broke off take no part. usable: (answers,) bool; others take no part, either. Pairs have the carried columns,
    chosen, rejected, chosen_index, rejected_index (places in the prompt's own list), their rewards, margin, and the
    rule's evidence.
    """
    all_pools = Pools.of(table["rewards"])
    unbroken = ended_well(table)
    masks = [mask for mask in (usable, unbroken) if mask is not None]
    pools = all_pools.only(np.logical_and.reduce(masks)) if masks else all_pools
    seven = seven_points(pools, settings.ddof)
    places = RULES[settings.rule](pools, seven, settings, table["prompt_id"])
    reasons = reasons_before(all_pools, pools, seven, usable, unbroken)
    pair_of, number = np.nonzero((places.chosen >= 0) & (places.rejected >= 0) & (reasons == KEPT)[:, None])
    rows = [pools.starts[pair_of] + side[pair_of, number] for side in (places.chosen, places.rejected)]
    rewards = [pools.rewards[side] for side in rows]
    local_places = [pools.local()[side] if pools.places is not None else side - pools.starts[pair_of] for side in rows]
    higher = rewards[0] > rewards[1]
    flat = in_one(table["answers"]).flatten()
    texts = [flat.take(pa.array(all_pools.starts[pair_of[higher]] + side[higher])) for side in local_places]
    same = pc.equal(*texts).to_numpy(zero_copy_only=False)
    kept = np.flatnonzero(higher)[~same]
    paired, unequal = np.zeros(len(pools), bool), np.zeros(len(pools), bool)
    paired[pair_of[kept]], unequal[pair_of[higher]] = True, True
    reasons[(reasons == KEPT) & ~paired] = EQUAL
    reasons[(reasons == EQUAL) & unequal] = SAME_TEXT
    pool_of_pair, different = pa.array(pair_of[kept]), pa.array(~same)
    columns = {name: table[name].take(pool_of_pair) for name in table.column_names if name not in NOT_CARRIED}
    columns |= {side: text.filter(different) for side, text in zip(SIDES, texts, strict=True)}
    for side, place in zip(SIDES, local_places, strict=True):
        columns[f"{side}_index"] = pa.array(place[kept], pa.int64())
    columns |= {f"{side}_reward": pa.array(reward[kept]) for side, reward in zip(SIDES, rewards, strict=True)}
    with np.errstate(over="ignore"):
        columns["margin"] = pa.array(rewards[0][kept] - rewards[1][kept])
    columns |= {name: pa.array(values).take(pool_of_pair) for name, values in places.evidence.items()}
    if settings.pairs_per_pool > 1:
        columns["pair"] = pa.array(number[kept], pa.int64())
    broken_off = 0 if unbroken is None else int((~unbroken).sum())
    return Cut(pa.table(columns), reasons, pools, seven, tuple(places.evidence), broken_off)


def reasons_before(
    all_pools: Pools, pools: Pools, seven: SevenPoints, usable: Array | None, unbroken: Array | None
) -> Array:
    """Why a pool can have no pair, whatever the rule, (pools,) numbers of REASONS.

    all_pools: with the answers that take no part; usable, unbroken: (answers,) bool of these, where they are known.
    """
    counts = np.diff(pools.starts)
    enough_before = np.diff(all_pools.starts) >= 2
    reasons = np.full(len(pools), KEPT, np.int8)
    reasons[(seven.places[:, 0] < 0) & (counts > 1)] = NAN
    reasons[counts < 2] = TOO_FEW
    if usable is not None:
        reasons[(counts < 2) & enough_before] = FLAGGED
    if unbroken is not None:
        remaining = np.diff(np.append(0, np.cumsum(unbroken))[all_pools.starts])
        reasons[(remaining < 2) & enough_before] = BROKEN_OFF
    return reasons


def ended_well(table: pa.Table) -> Array | None:
    """Which answers no content filter broke off, (answers,) bool; None where the table does not say, or none was."""
    if "finish_reasons" not in table.column_names:
        return None
    reasons = in_one(table["finish_reasons"]).flatten()
    bad = [name for name in pc.unique(reasons).to_pylist() if ending_of(name) == "content_filter"]
    if not bad:
        return None
    ended: Array = ~pc.is_in(reasons, pa.array(bad, reasons.type)).to_numpy(zero_copy_only=False)
    return ended


def max_min(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The highest reward over the lowest."""
    return Places(seven.places[:, 6:], seven.places[:, :1], {})


def sweet_spot(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The answers nearest to two of the seven points. Evidence: mean, std, whether the rejected one is the lowest."""
    upper, lower = (seven.places[:, [POINT_ORDER.index(point)]] for point in (settings.chosen, settings.rejected))
    evidence = {"mean": seven.mean, "std": seven.std, "rejected_is_min": lower[:, 0] == seven.places[:, 0]}
    return Places(upper, lower, evidence)


def scalable(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The highest reward of all over the lowest of a few drawn ones. Evidence: the places drawn."""
    most = min(settings.draw, max(np.diff(pools.starts), default=0))
    sample = np.full((len(pools), most), -1, np.int64)
    rejected = np.full(len(pools), -1, np.int64)
    keys = keys_of(ids, settings.seed)
    on_all_cores(lambda first, last: mark_drawn(*pools[:2], first, last, keys, most, sample, rejected), len(pools))
    is_drawn = sample >= 0
    local = pools.local() if pools.places is not None else None
    flat = (sample + pools.starts[:-1, None])[is_drawn]
    starts = np.append(0, np.cumsum(is_drawn.sum(axis=1)))
    samples = pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()), pa.array(sample[is_drawn] if local is None else local[flat])
    )
    return Places(seven.places[:, 6:], rejected[:, None], {"drawn": samples})


def best_random(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The highest reward over any other answer."""
    rejected = np.full(len(pools), -1, np.int64)
    keys, chosen = keys_of(ids, settings.seed), seven.places[:, 6]
    on_all_cores(lambda first, last: mark_other(pools.starts, first, last, keys, chosen, rejected), len(pools))
    return Places(seven.places[:, 6:], rejected[:, None], {})


def best_bottom(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The highest reward over the one at `bottom_percent` of the way from the lowest to the highest place."""
    counts = np.diff(pools.starts)
    at = np.floor(settings.bottom_percent / 100 * (counts - 1)).astype(np.int64)
    rejected = np.full(len(pools), -1, np.int64)
    nonempty = counts > 0
    rejected[nonempty] = ordered(pools)[pools.starts[:-1][nonempty] + at[nonempty]]
    return Places(seven.places[:, 6:], rejected[:, None], {})


def top_k(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The n-th highest over the n-th lowest."""
    counts, order, ascending = np.diff(pools.starts), ordered(pools, ascending=False), ordered(pools)
    most = min(settings.count, max(counts, default=0) // 2)
    shape = (len(pools), most)
    chosen, rejected = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    for n in range(most):
        enough = counts >= 2 * (n + 1)
        at = pools.starts[:-1][enough] + n
        chosen[enough, n], rejected[enough, n] = order[at], ascending[at]
    return Places(chosen, rejected, {})


def random_pairs(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """Different pairs of unequal rewards, at random."""
    largest = int(max(np.diff(pools.starts), default=0))
    shape = (len(pools), min(settings.count, largest * (largest - 1) // 2))
    chosen, rejected = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    keys = keys_of(ids, settings.seed)
    on_all_cores(lambda first, last: mark_pairs(*pools[:2], first, last, keys, chosen, rejected), len(pools))
    return Places(chosen, rejected, {})


def tournament(pools: Pools, seven: SevenPoints, settings: CutSettings, ids: Any) -> Places:
    """The winner of a knock-out by reward over the first answer that it beat. Evidence: rounds. SELF-JUDGE's."""
    chosen, rejected, rounds = (np.full(len(pools), value, np.int64) for value in (-1, -1, 0))
    keys = keys_of(ids, settings.seed)
    on_all_cores(
        lambda first, last: mark_tournament(*pools[:2], first, last, keys, chosen, rejected, rounds), len(pools)
    )
    return Places(chosen[:, None], rejected[:, None], {"rounds": rounds})


RULES: dict[str, Callable[[Pools, SevenPoints, CutSettings, Any], Places]] = {
    "max-min": max_min,
    "rip": max_min,
    "sweet-spot": sweet_spot,
    "scalable": scalable,
    "best-random": best_random,
    "best-bottom": best_bottom,
    "top-k": top_k,
    "random-pairs": random_pairs,
    "tournament": tournament,
}


def ordered(pools: Pools, *, ascending: bool = True) -> Array:
    """Places from the lowest reward to the highest, or the other way, pool by pool, (answers,)."""
    places = np.empty(len(pools.rewards), np.int64)
    rewards = pools.rewards if ascending else -pools.rewards
    on_all_cores(lambda first, last: mark_ordered(rewards, pools.starts, first, last, places), len(pools))
    return places


def keys_of(ids: Any, seed: int) -> Array:
    """The seed of each pool's draws: a hash of its id, so that one prompt more changes no other's. (pools,) uint64."""
    salt = seed.to_bytes(8, "little")
    digests = b"".join(blake2b(prompt_id.encode(), digest_size=8, key=salt).digest() for prompt_id in ids.to_pylist())
    return np.frombuffer(digests, np.uint64)


def lengths_of(texts: Any, count: Callable[[str], int] | None) -> Array:
    """Characters, or what `count` says, (texts,) int64."""
    if count is None:
        return np.asarray(pc.utf8_length(texts).to_numpy(zero_copy_only=False), np.int64)
    return np.fromiter(map(count, texts.to_pylist()), np.int64, len(texts))


def reason_counts(reasons: Sequence[int] | Array) -> dict[str, int]:
    """Prompts without a pair, by reason."""
    counts = np.bincount(np.asarray(reasons, np.int64), minlength=len(REASONS))
    return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if reason and count}
