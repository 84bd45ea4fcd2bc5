"""From scored pools to preferences: pairs by several rules at once, then the limits that need all pairs.

Source: docs/papers.md#rip, #sweet-spot.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from pydantic import Field, SerializeAsAny

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rip_limits import LIMITS, Thresholds
from synthmill.schemas.rows import Dropped, Pair, row_columns
from synthmill.storage.artifacts import Store, read_manifest, read_part
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import thinks
from synthmill.tasks.cores import Array, MapUnordered
from synthmill.tasks.cuts.cut import POLICIES, REASONS, Cut, CutSettings, cut, lengths_of
from synthmill.tasks.cuts.guards import FLAGS, PoolFacts, PoolStatistics, with_rewards
from synthmill.tasks.cuts.pair_limits import fit, limits_met, token_counter
from synthmill.tasks.cuts.points import Pools
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.frames import ArtifactKey, FileStage, FrameStage, MarkingStage, StageContext, frame_schema

CARRIED = ("prompt", "system", "source", "note")
ALWAYS_IN_KEYS: dict[str, Any] = {
    "chosen": "max",
    "rejected": "mu-2s",
    "ddof": 0,
    "rejected_reward": None,
    "rejected_length": None,
    "gap": None,
    "rejected_reward_quantile": 0.5,
    "rejected_length_quantile": 0.5,
    "gap_quantile": 0.5,
    "preset": "",
    "thresholds": "",
    "length": "characters",
    "tokenizer": "",
    "draw": 5,
    "bottom_percent": 25.0,
    "count": 1,
    "seed": 0,
}
"""What keys of stored pairs count of every rule, whichever it is: one model once held the settings of all."""


class PreferencePair(Pair):
    """A pair by one rule. evidence: what the rule knew, as JSON; rejected_length: in the rule's unit."""

    margin: float
    pair: int
    chosen_policy: str
    rejected_policy: str
    rejected_length: int
    flags: tuple[str, ...]
    evidence: str


class PoolReading(FrameStage):
    """A stage that reads scored pools: the answers' texts, and one of their scores as the reward."""

    reward: str = ""

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError where no score is named."""
        if not self.reward:
            raise InputError(f"{self.name}: it cuts by a score; name it: `reward`, the label of the step that gave it")

    def table(self, frame: pl.DataFrame) -> pa.Table:
        """prompt_id, prompt, answers, rewards, finish_reasons, policies. Raises InputError where no pool has this
        score.
        """
        scores = frame["scores"].to_list()
        names = {score["scorer"] for pool_scores in scores for score in pool_scores}
        if len(frame) and self.reward not in names:
            raise InputError(f"the pools have no score {self.reward!r}; found {', '.join(sorted(names)) or 'none'}")
        rewards: list[Any] = [
            next((score["values"] for score in pool_scores if score["scorer"] == self.reward), [])
            for pool_scores in scores
        ]
        pools = frame["answers"].to_list()
        texts, ends, policies = (
            [[answer.get(name) for answer in answers] for answers in pools]
            for name in ("text", "finish_reason", "policy")
        )
        return pa.table(
            {
                "prompt_id": pa.array(frame["id"].to_list(), pa.string()),
                "prompt": pa.array(frame["prompt"].to_list(), pa.string()),
                "answers": pa.array(texts, pa.list_(pa.string())),
                "rewards": pa.array(rewards, pa.list_(pa.float64())),
                "finish_reasons": pa.array(ends, pa.list_(pa.string())),
                POLICIES: pa.array(policies, pa.list_(pa.string())),
            }
        )


class PoolSigns(FileStage, PoolReading):
    """Scored pools -> what length earns, and which answers are the same under many prompts, in files.
    docs/papers.md#guards.
    """

    name: ClassVar = "pool_signs"
    version: ClassVar = "1"

    def build(
        self, store: Store, source: Manifest, folder: Path, tell: Callable[[int], None], map_unordered: MapUnordered
    ) -> None:
        facts, read = PoolFacts(), 0
        for seal in source.parts:
            if seal.rows:
                facts.add(self.table(pl.DataFrame(read_part(store, seal))))
            read += seal.rows
            tell(read)
        facts.statistics().save(folder)


@lru_cache(maxsize=4)
def load_statistics(root: Path, key: str) -> PoolStatistics:
    store = Store(root)
    return PoolStatistics.load(store.files_folder(read_manifest(store.manifest_path(PoolSigns.name, key))))


class CuttingStage(FrameStage):
    """A stage whose key counts rules."""

    cuts: SerializeAsAny[tuple[CutSettings, ...]]

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        identity = super().identity(engines)
        settings = identity["settings"]
        settings["cuts"] = [{**ALWAYS_IN_KEYS, **rule} for rule in settings["cuts"]]
        return identity


class PoolPairs(CuttingStage, PoolReading):
    """Scored pools -> pairs by each rule. Drops, by the first rule's reason: n<2, nan_reward, equal_reward,
    same_text, all_flagged, content_filter.

    signs: the key of `pool_signs`. tokenizers: filled in, the content of the tokenizers that count lengths.
    """

    name: ClassVar = "pool_pairs"
    version: ClassVar = "2"
    needs: ClassVar = ("id", *CARRIED, "answers", "scores")
    adds: ClassVar = row_columns(PreferencePair)

    length_control: bool = False
    leave_out: tuple[str, ...] = ()
    signs: ArtifactKey = ""
    tokenizers: tuple[str, ...] = ()

    def rows_per_row(self) -> int:
        return sum(settings.pairs_per_pool for settings in self.cuts)

    def prepare(self, frame: pl.DataFrame, store: Path) -> tuple[pa.Table, Array | None, dict[str, Array]]:
        """(pools with the rewards to cut by, answers that may take part, flags)."""
        table = self.table(frame)
        if not self.signs:
            return table, None, {}
        statistics = load_statistics(store, self.signs)
        flags = statistics.flags(table)
        if self.length_control:
            table = with_rewards(table, statistics.adjust_rewards(table))
        bad = [flags[flag] for flag in self.leave_out]
        return table, ~np.logical_or.reduce(bad) if bad else None, flags

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        table, usable, flags = self.prepare(frame, store)
        row_of = {row: n for n, row in enumerate(frame["id"].to_list())}
        carried = {name: frame[name].to_list() for name in CARRIED}
        answers = frame["answers"].to_list()
        starts = Pools.of(table["rewards"]).starts
        rows: list[dict[str, Any]] = []
        cuts = [cut(table, settings, usable) for settings in self.cuts]
        for settings, cut_pools in zip(self.cuts, cuts, strict=True):
            lengths = lengths_of(cut_pools.pairs["rejected"], token_counter(settings))
            for n, row in enumerate(cut_pools.pairs.to_pylist()):
                place = row_of[row["prompt_id"]]
                rows.append(
                    self.pair(settings, row, cut_pools.evidence, answers[place], int(lengths[n]))
                    | {name: values[place] for name, values in carried.items()}
                    | {"flags": self.flags_of(flags, starts[place], row)}
                )
        paired = {row["parent_id"] for row in rows}
        drops = [Dropped(id=row, reason=reason_of(cuts, n)) for row, n in row_of.items() if row not in paired]
        return pl.DataFrame(rows, schema=frame_schema(PreferencePair, thinks(frame.schema["answers"]))), drops

    def pair(
        self, settings: CutSettings, row: dict[str, Any], evidence: Sequence[str], answers: Sequence[Any], length: int
    ) -> dict[str, Any]:
        parent, number = row["prompt_id"], row.get("pair", 0)
        chosen, rejected = answers[row["chosen_index"]], answers[row["rejected_index"]]
        details = {name: row[name] for name in evidence}
        if "drawn" in details:  # numbered as chosen_index and rejected_index are
            details["drawn"] = [answers[place]["answer_index"] for place in details["drawn"]]
        return {
            **{name: row[name] for name in ("chosen", "rejected", "chosen_reward", "rejected_reward", "margin")},
            "id": child_id(parent, f"{settings.label}-{number}"),
            "parent_id": parent,
            "cut": settings.label,
            "pair": number,
            "chosen_index": chosen["answer_index"],
            "rejected_index": rejected["answer_index"],
            "chosen_policy": chosen["policy"],
            "rejected_policy": rejected["policy"],
            "rejected_length": length,
            "evidence": orjson.dumps(details).decode(),
            "chosen_reasoning": chosen.get("reasoning"),
            "rejected_reasoning": rejected.get("reasoning"),
        }

    @staticmethod
    def flags_of(flags: dict[str, Array], start: int, row: dict[str, Any]) -> list[str]:
        """What is wrong with either answer, for instance rejected:addresses_judge."""
        sides = (("chosen", row["chosen_index"]), ("rejected", row["rejected_index"]))
        return [f"{side}:{flag}" for side, place in sides for flag in FLAGS if flags and flags[flag][start + place]]


class Preferences(CuttingStage, MarkingStage):
    """Pairs -> the same, each marked (`within`) with whether it is within its rule's limits. docs/papers.md#rip, step
    5.

    limits: by rule, those that are not fitted on these pairs. Duplicates take no part in fitting.
    """

    name: ClassVar = "preferences"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "cut", "kept", *LIMITS[:2], "margin")
    adds: ClassVar = ("within", *(f"limit_{name}" for name in LIMITS))

    fixed: dict[str, Thresholds] = Field(default_factory=dict)

    def narrow(self, rows: RowStream) -> pl.DataFrame:
        return rows.frame(self.needs)

    def mark(self, narrow: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        good = np.ones(len(narrow), bool)
        columns = {name: np.full(len(narrow), np.nan) for name in LIMITS}
        for settings in self.cuts:
            if not isinstance(settings, Rip):
                continue
            of_rule = (narrow["cut"] == settings.label).to_numpy()
            metrics = {
                name: narrow[column].to_numpy() for name, column in zip(LIMITS, (*LIMITS[:2], "margin"), strict=True)
            }
            kept = of_rule & narrow["kept"].to_numpy()
            limits = self.fixed.get(settings.label) or fit(
                {name: values[kept] for name, values in metrics.items()}, settings.quantiles, settings.own_limits
            )
            for verdict in limits_met(metrics, limits).values():
                good &= verdict | ~of_rule
            for name in LIMITS:
                if (limit := getattr(limits, name)) is not None:
                    columns[name][of_rule] = limit
        limit_columns = (pl.Series(f"limit_{name}", values).fill_nan(None) for name, values in columns.items())
        return narrow.select(place=pl.int_range(pl.len()), within=pl.Series(good)).with_columns(limit_columns), []


def reason_of(cuts: Sequence[Cut], pool: int) -> str:
    """Why the first rule made no pair of a pool."""
    return next((REASONS[cut_pools.reasons[pool]] for cut_pools in cuts if cut_pools.reasons[pool]), "no_pair")
