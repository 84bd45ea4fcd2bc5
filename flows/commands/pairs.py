"""`synthmill pairs`: preference pairs from a plain file of answers with rewards."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from flows.terminal.progress import Reporter
from schemas.cut_settings import LIMITS, CutSettings, Thresholds
from schemas.errors import InputError
from schemas.progress import Progress
from storage.files import write_json
from storage.plain_files.outputs import check_out, write_rows
from storage.plain_files.pool_rows import MESSAGES
from storage.plain_files.pools import ColumnNames, PoolFile, prefetch, read_pools
from tasks.cuts.guards import PoolFacts, PoolStatistics, count_flags
from tasks.cuts.pair_limits import fixed_limits, with_unit_of_limits
from tasks.cuts.pool_pairs import quantiles_of, token_counter, with_rewards
from tasks.cuts.report import CutReport, describe_broken_off, explain_mu_2s, report_lines
from tasks.cuts.rip import fit, keeps, limits_met
from tasks.cuts.rules import cut, lengths_of

CHAT = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
EMPTY = {"prompt_id": pa.string(), "prompt": pa.string(), "answers": pa.list_(pa.string())}


def pair_file(
    source: str,
    out: Path,
    settings: CutSettings,
    names: ColumnNames,
    leave_out: Sequence[str] = (),
    length_control: bool = False,
    save_thresholds: Path | None = None,
    explain: bool = False,
    as_object: bool = False,
) -> None:
    """Cut pairs from `source` into `out`; one line about it, or the whole report, to standard output."""
    check_out(out, source, settings.thresholds)
    if save_thresholds and (
        settings.rule != "rip" or save_thresholds.resolve() in (out.resolve(), Path(source).resolve())
    ):
        raise InputError("--save-thresholds writes what --rule rip fitted, to a file of its own")
    if save_thresholds and not save_thresholds.resolve().parent.is_dir():
        raise InputError(f"{save_thresholds} cannot be written; expected a file in a folder that is there")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary folders go
    settings = with_unit_of_limits(settings)
    fixed = fixed_limits(settings)
    count = token_counter(settings)
    file, beside = PoolFile(source, names), out.resolve().parent
    known = read_pools(file, learned, beside) if leave_out or length_control else None

    def work(tables: Iterator[pa.Table]) -> tuple[Cutting, int, Thresholds | None]:
        cutting = Cutting(settings, file.reward, count, known, leave_out, length_control)
        if settings.rule != "rip":
            return cutting, written(out, cutting.kept(cutting.pairs(tables)), settings), None
        with TemporaryDirectory(dir=beside, prefix=".pairs-") as folder:
            return cutting, *filtered(cutting, tables, Path(folder) / "pairs.arrow", out, fixed, Path(source).name)

    cutting, made, limits = read_pools(file, work, beside)
    if save_thresholds and limits and not limits.pairs:
        raise InputError(f"{source} gave no pair, so no limits could be fitted; {save_thresholds} was not written")
    if save_thresholds and limits:
        write_json(save_thresholds, limits.model_dump())
    told = cutting.report.summary(file.faults, made, limits)
    if known is not None:
        told |= {"flags": dict(cutting.flagged), "length": known.slope._asdict() if length_control else None}
    if as_object:
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    elif explain:
        print("\n".join(report_lines(told)))
    tell_short(told, out, () if explain or as_object else explain_mu_2s(told) if settings.rule == "sweet-spot" else ())


class Cutting:
    """One pass over a file: pairs of its pools, counted in a report. reward: its column; known: for guards."""

    def __init__(
        self,
        settings: CutSettings,
        reward: str,
        count: Callable[[str], int] | None,
        known: PoolStatistics | None,
        leave_out: Sequence[str],
        length_control: bool,
    ) -> None:
        self.settings, self.reward, self.count = settings, reward, count
        self.known, self.leave_out, self.length_control = known, leave_out, length_control
        self.report = CutReport(settings)
        self.flagged: Counter[str] = Counter()

    def pairs(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        with Reporter("pairs", 0) as tell:
            for table in tables:
                made = cut(*self.guarded(table))
                self.report.add(made)
                tell(Progress(rows=self.report.prompts, dropped=self.report.reasons.total()))
                yield with_length(made.pairs, self.settings, self.count)

    def guarded(self, table: pa.Table) -> tuple[pa.Table, CutSettings, Any]:
        """Pools with the rewards to cut by, and which answers may take part."""
        if self.known is None:
            return table, self.settings, None
        flags = self.known.flags(table) if self.leave_out else {}
        self.flagged.update(count_flags(flags))
        if self.length_control:
            table = with_rewards(table, self.known.adjust_rewards(table))
        usable = ~np.logical_or.reduce([flags[flag] for flag in self.leave_out]) if self.leave_out else None
        return table, self.settings, usable

    def kept(self, parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The same pairs, noted as staying."""
        for pairs in parts:
            self.report.keep(pairs)
            yield pairs


def learned(tables: Iterator[pa.Table]) -> PoolStatistics:
    """What can only be known of all pools together."""
    facts = PoolFacts()
    with Reporter("looking", 0) as tell:
        for table in tables:
            facts.add(table)
            tell(Progress(rows=facts.prompts))
    return facts.statistics()


def with_length(pairs: pa.Table, settings: CutSettings, count: Callable[[str], int] | None) -> pa.Table:
    """RIP's pairs with the length that its limits look at."""
    if settings.rule != "rip" or "rejected_length" in pairs.column_names:
        return pairs
    return pairs.append_column("rejected_length", pa.array(lengths_of(pairs["rejected"], count)))


def written(out: Path, parts: Iterator[pa.Table], settings: CutSettings) -> int:
    """Write pairs; a file without any has the columns all the same."""
    parts = map(as_conversations, parts)
    first = next(parts, None)
    if first is None:
        first = no_pairs(settings)
    return write_rows(out, first.schema, chain([first], prefetch(parts)))


def as_conversations(pairs: pa.Table) -> pa.Table:
    """Pairs of prompts that were messages in TRL's conversational form: prompt, chosen and rejected are messages."""
    if MESSAGES not in pairs.column_names:
        return pairs
    columns = {name: pairs[name] for name in pairs.column_names if name not in (MESSAGES, "system")}
    columns["prompt"] = pa.array(map(orjson.loads, pairs[MESSAGES].to_pylist()), CHAT)
    for side in ("chosen", "rejected"):
        chats = ([{"role": "assistant", "content": text}] for text in pairs[side].to_pylist())
        columns[side] = pa.array(chats, CHAT)
    return pa.table(columns)


def no_pairs(settings: CutSettings) -> pa.Table:
    """The columns of a rule's pairs."""
    none = pa.table(
        {name: pa.array([], kind) for name, kind in EMPTY.items()} | {"rewards": pa.array([], pa.list_(pa.float64()))}
    )
    return with_length(cut(none, settings).pairs, settings, None)


def filtered(
    cutting: Cutting, tables: Iterator[pa.Table], spill: Path, out: Path, fixed: Thresholds, source: str
) -> tuple[int, Thresholds]:
    """RIP's way: all pairs to a file, limits from their metrics, then those within them to `out`."""
    settings, parts = cutting.settings, cutting.pairs(tables)
    first = next(parts, None)
    first = no_pairs(settings) if first is None else first
    seen: list[tuple[Any, ...]] = []
    with pa.ipc.new_file(spill, first.schema) as writer:
        for pairs in chain([first], prefetch(parts)):
            seen.append(tuple(pairs[name].to_numpy() for name in ("rejected_reward", "rejected_length", "margin")))
            writer.write_table(pairs)
    metrics = dict(zip(LIMITS, map(np.concatenate, zip(*seen, strict=True)), strict=True))
    limits = fixed
    if not settings.preset and not settings.thresholds:
        update = {"fitted_on": source, "reward": cutting.reward}
        limits = fit(metrics, quantiles_of(settings), fixed).model_copy(update=update)
    elif fixed.reward and fixed.reward != cutting.reward:
        print(f"these limits are of the reward {fixed.reward!r}; these rewards are {cutting.reward!r}", file=sys.stderr)
    cutting.report.leaves_out = {name: int((~good).sum()) for name, good in limits_met(metrics, limits).items()}
    good = keeps(metrics, limits)

    def staying() -> Iterator[pa.Table]:
        start, file = 0, pa.ipc.open_file(pa.memory_map(str(spill)))
        for batch in map(file.get_batch, range(file.num_record_batches)):
            yield pa.table(batch).filter(pa.array(good[start : start + batch.num_rows]))
            start += batch.num_rows

    written(out, cutting.kept(staying()), settings)
    return len(good), limits


def tell_short(told: dict[str, Any], out: Path, notes: Any) -> None:
    """What was read, dropped and kept, in a line or two."""
    if told["content_filter"]:
        print(describe_broken_off(told), file=sys.stderr)
    for what, counts in (("rows could not be read", told["unreadable"]), ("prompts have no pair", told["dropped"])):
        if counts:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            print(f"{sum(counts.values()):,} {what}: {reasons}", file=sys.stderr)
    for note in notes:
        print(note, file=sys.stderr)
    if not told["kept"] and told["leaves_out"]:
        alone = ", ".join(f"{name} leaves out {count:,}" for name, count in told["leaves_out"].items())
        print(f"nothing was kept: {alone} of {told['pairs']:,} pairs", file=sys.stderr)
    share = f" of {told['pairs']:,} ({told['kept_share']:.1%})" if told["kept"] != told["pairs"] else ""
    print(f"{told['kept']:,} pairs{share} from {told['prompts']:,} prompts -> {out}", file=sys.stderr)
