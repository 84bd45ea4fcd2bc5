"""Guards against rewards that are earned the wrong way: by length, by answers that are the same everywhere, by talk to
the judge, by repeating the prompt.

Source: docs/papers.md#guards.
"""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from synthmill.schemas.hashing import digest
from synthmill.schemas.texts import normalised
from synthmill.storage.plain_files.pool_columns import in_one
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.points import Pools
from synthmill.tasks.texts.words import words_of

FLAGS = ("constant", "near_constant", "addresses_judge", "copies_prompt")
GRAM = 5  # words
COMMON_PROMPTS, COMMON_SHARE = 3, 0.02  # a text is common if so many prompts, and such a share of all, have it
NEAR, COPIED = 0.8, 0.9  # of an answer's runs of words
SHORTEST = 20  # characters: shorter answers may well be the same twice
FEWEST = 12  # words: shorter answers are not looked at for runs
MIXER = np.uint64(0x9E3779B97F4A7C15)
MOST_KEPT, MERGED_AT = 1 << 24, 1 << 22
TO_JUDGE = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"\[\s*result\s*\]",
        r"\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:of\s+)?(?:the\s+|my\s+|your\s+)?(?:above|previous|prior|earlier|preceding)\b",
        r"\b(?:dear|note to(?: the)?|attention,?|to the)\s+(?:judge|evaluator|grader|rater)s?\b",
        r"\b(?:rate|score|grade|mark)\s+(?:this|my)\s+(?:response|answer|output|reply)\b.{0,40}\b(?:10|ten|5|five|full|high|highest|top|perfect|best)\b",
        r"\bgive\s+(?:this|my)\s+(?:response|answer|output|reply)\s+(?:a|an|the)\b.{0,30}\b(?:10|ten|5|five|full|high|highest|top|perfect|best)\b",
        r"\b(?:this|my)\s+(?:response|answer|output|reply)\s+(?:deserves|merits|should\s+(?:be\s+(?:rated|scored|graded)|get|receive))\b",
        r"\"?model_identifier\"?\s*[:=]",
        r"\b(?:response|answer|output|assistant)\s+[\"'(]?[AB][\"')]?\s+is\s+(?:\w+\s+)?better\b",
    )
)


class Slope(NamedTuple):
    """What one more character adds to the reward within a pool, and the share of the variance within pools that length
    explains.
    """

    per_character: float
    explained: float


class PoolFacts:
    """Collects what only all pools together tell, batch by batch."""

    def __init__(self) -> None:
        self.prompts = 0
        self._sums = np.zeros(3)  # of length x reward, length squared, reward squared; all from their pool's means
        self._texts = SetCounts()
        self._grams = SetCounts()

    def add(self, table: pa.Table) -> None:
        """table: prompt_id, prompt, answers (texts), rewards."""
        self.prompts += table.num_rows
        pools, lengths = Pools.of(table["rewards"]), lengths_in(table)
        counts = np.diff(pools.starts)
        nonempty = counts > 0
        starts = pools.starts[:-1][nonempty]
        if len(starts):
            pool_of = np.repeat(np.arange(len(starts)), counts[nonempty])
            x = lengths - (np.add.reduceat(lengths, starts) / counts[nonempty])[pool_of]
            y = pools.rewards - (np.add.reduceat(pools.rewards, starts) / counts[nonempty])[pool_of]
            good = np.isfinite(y)
            self._sums += ((x * y)[good].sum(), (x * x)[good].sum(), (y * y)[good].sum())
        for answers in table["answers"].to_pylist():
            hashes = [text_hash(text) for text in answers or () if len(text) >= SHORTEST]
            self._texts.add(np.array(hashes, np.uint64))
            self._grams.add(np.concatenate([np.zeros(0, np.uint64), *map(runs_in, answers or ())]))

    def statistics(self) -> "PoolStatistics":
        """Of the pools added so far."""
        xy, xx, yy = self._sums.tolist()
        slope = Slope(xy / xx, xy * xy / (xx * yy)) if xx > 0 and yy > 0 else Slope(0.0, 0.0)
        least = max(COMMON_PROMPTS, int(np.ceil(COMMON_SHARE * self.prompts)))
        return PoolStatistics(slope, self._texts.at_least(COMMON_PROMPTS), self._grams.at_least(least))


class PoolStatistics(NamedTuple):
    """texts, grams: sorted hashes, (n,) uint64, of answers and of runs of words that stand under several prompts."""

    slope: Slope
    texts: Array
    grams: Array

    def adjust_rewards(self, table: pa.Table) -> Array:
        """Rewards without what length earned: the slope times the length above the pool's mean is taken off."""
        pools, lengths = Pools.of(table["rewards"]), lengths_in(table)
        counts = np.diff(pools.starts)
        means = np.zeros(len(counts))
        nonempty = counts > 0
        means[nonempty] = np.add.reduceat(lengths, pools.starts[:-1][nonempty]) / counts[nonempty]
        return pools.rewards - self.slope.per_character * (lengths - np.repeat(means, counts))

    def flags(self, table: pa.Table) -> dict[str, Array]:
        """Per flag, (answers,) bool."""
        verdicts: dict[str, list[bool]] = {flag: [] for flag in FLAGS}
        for prompt, answers in zip(table["prompt"].to_pylist(), table["answers"].to_pylist(), strict=True):
            prompt_grams = np.unique(grams_of(words_of(prompt)))
            for text in answers or ():
                runs = runs_in(text)
                verdicts["constant"].append(len(text) >= SHORTEST and share_in(self.texts, text_hash(text)) == 1)
                verdicts["near_constant"].append(share_in(self.grams, runs) >= NEAR)
                verdicts["addresses_judge"].append(any(pattern.search(text) for pattern in TO_JUDGE))
                verdicts["copies_prompt"].append(share_in(prompt_grams, runs) >= COPIED)
        return {flag: np.array(values, bool) for flag, values in verdicts.items()}

    def save(self, folder: Path) -> None:
        for name in ("texts", "grams"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "slope.json").write_bytes(orjson.dumps(self.slope._asdict()))

    @classmethod
    def load(cls, folder: Path) -> "PoolStatistics":
        slope = Slope(**orjson.loads((folder / "slope.json").read_bytes()))
        return cls(slope, np.load(folder / "texts.npy"), np.load(folder / "grams.npy"))


class SetCounts:
    """Counts the sets that hold each hash. Above MOST_KEPT hashes, it drops those seen in one set only."""

    def __init__(self) -> None:
        self._new: list[Array] = []
        self._waiting = 0
        self._hashes = np.zeros(0, np.uint64)
        self._counts = np.zeros(0, np.int64)

    def add(self, hashes: Array) -> None:
        self._new.append(np.unique(hashes))
        self._waiting += len(hashes)
        if self._waiting > MERGED_AT:
            self._merge()

    def _merge(self) -> None:
        """Only new hashes are sorted: the others are, and sorting millions again would take most of the time."""
        hashes, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *self._new]), return_counts=True)
        place = np.searchsorted(self._hashes, hashes)
        is_known = place < len(self._hashes)
        is_known[is_known] = self._hashes[place[is_known]] == hashes[is_known]
        self._counts[place[is_known]] += counts[is_known]
        self._hashes = np.insert(self._hashes, place[~is_known], hashes[~is_known])
        self._counts = np.insert(self._counts, place[~is_known], counts[~is_known])
        self._new, self._waiting = [], 0
        if len(self._hashes) > MOST_KEPT:
            often = self._counts > 1
            self._hashes, self._counts = self._hashes[often], self._counts[often]

    def at_least(self, count: int) -> Array:
        """The hashes that at least `count` sets hold, sorted."""
        self._merge()
        return self._hashes[self._counts >= count]


def lengths_in(table: pa.Table) -> Array:
    """Characters of every answer, (answers,) float64."""
    return np.asarray(pc.utf8_length(in_one(table["answers"]).flatten()).to_numpy(zero_copy_only=False), np.float64)


def with_rewards(table: pa.Table, rewards: Array) -> pa.Table:
    """The same pools with other rewards, (answers,)."""
    starts = Pools.of(table["rewards"]).starts
    column = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(rewards))
    return table.set_column(table.column_names.index("rewards"), "rewards", column)


def text_hash(text: str) -> int:
    return int.from_bytes(digest(normalised(text), size=8), "little")


def grams_of(words: Sequence[str]) -> Array:
    """A hash of every run of words, (runs,) uint64."""
    codes = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
    runs = max(0, len(words) - GRAM + 1)
    hashes = np.zeros(runs, np.uint64)
    for n in range(GRAM):
        hashes = hashes * MIXER + codes[n : n + runs]  # modulo 2 ** 64
    return hashes


def runs_in(text: str) -> Array:
    """A text's runs of words; none where it is too short to say anything."""
    words = words_of(text)
    return grams_of(words if len(words) >= FEWEST else [])


def share_in(hashes: Array, values: Array | int) -> float:
    """The share of the values that a sorted array of hashes holds; 0 where there is no value."""
    looked_up = np.atleast_1d(np.asarray(values, np.uint64))
    if not len(hashes) or not len(looked_up):
        return 0.0
    places = np.minimum(np.searchsorted(hashes, looked_up), len(hashes) - 1)
    return float((hashes[places] == looked_up).mean())


def count_flags(flags: dict[str, Any]) -> dict[str, int]:
    """Answers by flag."""
    return {flag: int(values.sum()) for flag, values in flags.items() if values.any()}
