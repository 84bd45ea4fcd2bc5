"""What a cut is: a rule picks answers of pools, and `cut` makes pairs of them or says why there is none.

Each rule is one module of rules/: its settings, and what it picks. The settings of all of them form a union that is
found by listing that folder (schemas/kinds.py). Source: docs/papers.md#rip, #sweet-spot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from synthmill.schemas.endings import Ending, ending_of
from synthmill.schemas.kinds import UnionSettings
from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.points import Pools, SevenPoints, seven_points

REASONS = (
    *("", "n<2", "nan_reward", "equal_reward", "same_text", "all_flagged", "content_filter", "cut_short"),
    *("no_pass", "no_fail", "outside_band", "one_policy"),
)
KEPT, TOO_FEW, NAN, EQUAL, SAME_TEXT, FLAGGED, BROKEN_OFF, CUT_SHORT = range(8)
NO_PASS, NO_FAIL, OUTSIDE_BAND, ONE_POLICY = range(8, len(REASONS))
SIDES = ("chosen", "rejected")
POLICIES = "policies"
"""The column of who gave each answer, in lists as long as the answers'."""
NOT_CARRIED = ("answers", "rewards", "finish_reasons", POLICIES)
THINKING = "reasoning"
"""The column of what was thought before each answer, in lists as long as the answers'."""


class Places(NamedTuple):
    """What a rule picks. chosen, rejected: (pools, pairs) places in their pools, -1 for none; evidence: named columns,
    a value per pool. reasons: why the rule itself pairs none of a pool, (pools,) numbers of REASONS; default: the
    rewards are equal.
    """

    chosen: Array
    rejected: Array
    evidence: dict[str, Any]
    reasons: Array | None = None


class CutSettings(UnionSettings):
    """One rule. May be written as its name; with settings beside it: {spec: sweet-spot, rejected: mu-s}."""

    package: ClassVar = "synthmill.tasks.cuts.rules"
    noun: ClassVar = "rule"
    discriminator: ClassVar = "rule"
    missing_rewards: ClassVar[Literal["no_pair", "leave_out", "ignore"]] = "no_pair"
    """What a missing reward means: its pool has no pair, or its answer takes no part; ignore: the rule looks at no
    reward.
    """
    reads_policies: ClassVar[bool] = False
    """Whether it looks at who gave each answer."""

    rule: str
    name: str = Field("", description="what its pairs are called; default: the rule", pattern=r"^[\w.-]*$")
    cut_answers: Literal["leave_out", "take"] = Field(
        "leave_out",
        description="answers that were cut at max_tokens; take: they are in pairs, too",
        exclude_if=lambda choice: choice == "leave_out",  # keys of stored pairs do not count it
    )

    @property
    def label(self) -> str:
        return self.name or self.rule

    @property
    def pairs_per_pool(self) -> int:
        """The most pairs of a pool; where there may be several, they are numbered."""
        return 1

    def seven_points(self, pools: Pools) -> SevenPoints:
        """The points that `places` and reports look at."""
        return seven_points(pools)

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        """The answers that are paired. ids: of the prompts, (pools,)."""
        raise TypeError(f"{type(self).__name__} must define places(pools, seven, ids)")

    def places_in(self, table: pa.Table, pools: Pools, seven: SevenPoints) -> Places:
        """As `places`, for a rule that looks at more of the table than the rewards."""
        return self.places(pools, seven, table["prompt_id"])


class Cut(NamedTuple):
    """What a rule made of a table.

    pairs: a row per pair, in the order of the pools; reasons: (pools,) numbers of REASONS; pools: the answers that took
    part; seven: their points; evidence: the names of the rule's own columns; broken_off, cut_short: how many answers a
    content filter, or max_tokens, ended, which therefore took no part.
    """

    pairs: pa.Table
    reasons: Array
    pools: Pools
    seven: SevenPoints
    evidence: tuple[str, ...]
    broken_off: int
    cut_short: int = 0


def cut(table: pa.Table, settings: CutSettings, usable: Array | None = None) -> Cut:
    """Pairs of pools by one rule.

    table: `prompt_id`, `answers` (lists of texts), `rewards` (lists of numbers, of the same lengths), and columns to
    carry over. Where they are there (lists of texts, of the same lengths): `finish_reasons`, so that answers which a
    content filter broke off take no part, and those that max_tokens cut take none unless the rule takes them; and
    `reasoning`, which pairs have as chosen_reasoning and rejected_reasoning; and `policies`. usable: (answers,) bool;
    others take no part, either. Pairs have the carried columns, chosen, rejected, chosen_index, rejected_index (places
    in the prompt's own list), their rewards, margin, and the rule's evidence.
    """
    all_pools = Pools.of(table["rewards"])
    unbroken = not_ended_by(table, "content_filter")
    uncut = not_ended_by(table, "length") if settings.cut_answers == "leave_out" else None
    scored = np.isfinite(all_pools.rewards) if settings.missing_rewards == "leave_out" else None
    masks = [mask for mask in (scored, usable, unbroken, uncut) if mask is not None]
    pools = all_pools.only(np.logical_and.reduce(masks)) if masks else all_pools
    by_reward = settings.missing_rewards != "ignore"
    looked_at = pools.rewards if by_reward else np.zeros(len(pools.rewards))
    seven = settings.seven_points(Pools(looked_at, pools.starts, pools.places))
    places = settings.places_in(table, pools, seven)
    reasons = reasons_before(
        all_pools, pools, seven, {NAN: scored, FLAGGED: usable, CUT_SHORT: uncut, BROKEN_OFF: unbroken}
    )
    if places.reasons is not None:
        reasons = np.where(reasons == KEPT, places.reasons, reasons)
    pair_of, number = np.nonzero((places.chosen >= 0) & (places.rejected >= 0) & (reasons == KEPT)[:, None])
    rows = [pools.starts[pair_of] + side[pair_of, number] for side in (places.chosen, places.rejected)]
    rewards = [pools.rewards[side] for side in rows]
    local_places = [pools.local()[side] if pools.places is not None else side - pools.starts[pair_of] for side in rows]
    higher = rewards[0] > rewards[1] if by_reward else np.ones(len(rewards[0]), bool)
    flat = in_one(table["answers"]).flatten()
    texts = [flat.take(pa.array(all_pools.starts[pair_of[higher]] + side[higher])) for side in local_places]
    same = pc.equal(*texts).to_numpy(zero_copy_only=False)
    kept = np.flatnonzero(higher)[~same]
    paired, unequal = np.zeros(len(pools), bool), np.zeros(len(pools), bool)
    paired[pair_of[kept]], unequal[pair_of[higher]] = True, True
    reasons[(reasons == KEPT) & ~paired] = EQUAL
    reasons[(reasons == EQUAL) & unequal] = SAME_TEXT
    columns = carried_columns(table, pair_of[kept])
    columns |= {side: text.filter(pa.array(~same)) for side, text in zip(SIDES, texts, strict=True)}
    if (thoughts := parallel_texts(table, THINKING)) is not None:
        for side, place in zip(SIDES, local_places, strict=True):
            columns[f"{side}_{THINKING}"] = thoughts.take(pa.array(all_pools.starts[pair_of[kept]] + place[kept]))
    for side, place in zip(SIDES, local_places, strict=True):
        columns[f"{side}_index"] = pa.array(place[kept], pa.int64())
    columns |= reward_columns(*(reward[kept] for reward in rewards))
    columns |= {name: pa.array(values).take(pa.array(pair_of[kept])) for name, values in places.evidence.items()}
    if settings.pairs_per_pool > 1:
        columns["pair"] = pa.array(number[kept], pa.int64())
    broken_off, cut_short = (0 if mask is None else int((~mask).sum()) for mask in (unbroken, uncut))
    return Cut(pa.table(columns), reasons, pools, seven, tuple(places.evidence), broken_off, cut_short)


def carried_columns(table: pa.Table, pool_of_pair: Array) -> dict[str, Any]:
    """The columns of pools that go along to their pairs. pool_of_pair: (pairs,) rows of the table."""
    left_out = (*NOT_CARRIED, *(() if parallel_texts(table, THINKING) is None else (THINKING,)))
    return {name: table[name].take(pa.array(pool_of_pair)) for name in table.column_names if name not in left_out}


def reward_columns(chosen: Array, rejected: Array) -> dict[str, Any]:
    """The rewards of pairs, and by how much the chosen one's is higher; a missing one is null."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = {"chosen_reward": chosen, "rejected_reward": rejected, "margin": chosen - rejected}
    return {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}


def parallel_texts(table: pa.Table, name: str) -> Any:
    """A column with a text for each answer, flat as the answers are; None where there is none."""
    if name not in table.column_names or table.schema.field(name).type != pa.list_(pa.string()):
        return None
    lists, answers = in_one(table[name]), in_one(table["answers"])
    same = pc.equal(pc.list_value_length(lists), pc.list_value_length(answers))
    return lists.flatten() if pc.all(same, skip_nulls=False).as_py() else None


def reasons_before(all_pools: Pools, pools: Pools, seven: SevenPoints, masks: Mapping[int, Array | None]) -> Array:
    """Why a pool can have no pair, whatever the rule, (pools,) numbers of REASONS.

    all_pools: with the answers that take no part; masks: why they take none -> those that do in spite of it, (answers,)
    bool. Where several left answers out, a content filter is named if it alone left fewer than two, else max_tokens.
    """
    counts = np.diff(pools.starts)
    enough_before = np.diff(all_pools.starts) >= 2
    reasons = np.full(len(pools), KEPT, np.int8)
    reasons[(seven.places[:, 0] < 0) & (counts > 1)] = NAN
    reasons[counts < 2] = TOO_FEW
    too_few = (counts < 2) & enough_before
    for reason, mask in masks.items():
        if mask is not None:
            remaining = np.diff(np.append(0, np.cumsum(mask))[all_pools.starts])
            fewest = 2 if reason == BROKEN_OFF else np.diff(all_pools.starts)
            reasons[too_few & ((remaining < fewest) | (reason == FLAGGED))] = reason
    return reasons


def not_ended_by(table: pa.Table, ending: Ending) -> Array | None:
    """Which answers did not end so, (answers,) bool; None where the table does not say, or all ended otherwise."""
    if "finish_reasons" not in table.column_names:
        return None
    reasons = in_one(table["finish_reasons"]).flatten()
    bad = [name for name in pc.unique(reasons).to_pylist() if ending_of(name) == ending]
    if not bad:
        return None
    ended: Array = ~pc.is_in(reasons, pa.array(bad, reasons.type)).to_numpy(zero_copy_only=False)
    return ended


def lengths_of(texts: Any, count: Callable[[str], int] | None) -> Array:
    """Characters, or what `count` says, (texts,) int64."""
    if count is None:
        return np.asarray(pc.utf8_length(texts).to_numpy(zero_copy_only=False), np.int64)
    return np.fromiter(map(count, texts.to_pylist()), np.int64, len(texts))


def reason_counts(reasons: Sequence[int] | Array) -> dict[str, int]:
    """Prompts without a pair, by reason."""
    counts = np.bincount(np.asarray(reasons, np.int64), minlength=len(REASONS))
    return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if reason and count}
