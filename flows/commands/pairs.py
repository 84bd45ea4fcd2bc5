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

from synthmill.flows.terminal.progress import Reporter
from synthmill.schemas.errors import InputError
from synthmill.schemas.progress import Progress
from synthmill.schemas.rip_limits import LIMITS, Thresholds
from synthmill.storage.files import write_json
from synthmill.storage.plain_files.outputs import check_out, write_rows
from synthmill.storage.plain_files.pool_rows import MESSAGES
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile, prefetch, read_pools
from synthmill.tasks.cuts.cut import CutSettings, cut, lengths_of
from synthmill.tasks.cuts.guards import PoolFacts, PoolStatistics, count_flags, with_rewards
from synthmill.tasks.cuts.pair_limits import fit, fixed_limits, keeps, limits_met, token_counter, with_unit_of_limits
from synthmill.tasks.cuts.report import CutReport, describe_ends, explain_mu_2s, report_lines
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.cuts.rules.sweet_spot import SweetSpot

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
    """Cut pairs from `source` into `out`. explain, as_object: print the report, as text or JSON."""
    check_out(out, source, settings.thresholds if isinstance(settings, Rip) else "")
    if save_thresholds:
        check_thresholds_file(save_thresholds, source, out, settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # temporary folders are deleted
    summary = write_pairs_of(source, out, settings, names, leave_out, length_control, save_thresholds)
    if as_object:
        print(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())
    elif explain:
        print("\n".join(report_lines(summary)))
    brief = isinstance(settings, SweetSpot) and not explain and not as_object
    print_summary(summary, out, explain_mu_2s(summary) if brief else ())


def write_pairs_of(
    source: str,
    out: Path,
    settings: CutSettings,
    names: ColumnNames,
    leave_out: Sequence[str] = (),
    length_control: bool = False,
    save_thresholds: Path | None = None,
) -> dict[str, Any]:
    """Cut pairs from `source` into `out`: the report. Raises InputError."""
    settings = with_unit_of_limits(settings)
    count = token_counter(settings)
    file, scratch = PoolFile(source, names, policies=settings.reads_policies), out.resolve().parent
    statistics = read_pools(file, gather_statistics, scratch) if leave_out or length_control else None

    def cut_pairs(tables: Iterator[pa.Table]) -> tuple[PairCutter, int, Thresholds | None]:
        cutter = PairCutter(settings, file.reward, count, statistics, leave_out, length_control)
        if not isinstance(settings, Rip):
            return cutter, write_pairs(out, cutter.count_kept(cutter.pairs(tables)), settings), None
        with TemporaryDirectory(dir=scratch, prefix=".pairs-") as folder:
            spill = Path(folder) / "pairs.arrow"
            return cutter, *write_within_limits(cutter, settings, tables, spill, out, Path(source).name)

    cutter, pairs, limits = read_pools(file, cut_pairs, scratch)
    if save_thresholds and limits and not limits.pairs:
        raise InputError(f"{source} gave no pair, so no limits could be fitted; {save_thresholds} was not written")
    if save_thresholds and limits:
        write_json(save_thresholds, limits.model_dump())
    summary = cutter.report.summary(file.faults, pairs, limits)
    if statistics is not None:
        summary |= {"flags": dict(cutter.flagged), "length": statistics.slope._asdict() if length_control else None}
    return summary


def check_thresholds_file(path: Path, source: str, out: Path, settings: CutSettings) -> None:
    """Raises InputError where limits cannot be written to this file."""
    if not isinstance(settings, Rip) or path.resolve() in (out.resolve(), Path(source).resolve()):
        raise InputError("--save-thresholds writes what --rule rip fitted, to a file of its own")
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path} cannot be written; expected a file in a folder that is there")


class PairCutter:
    """One pass over a file: pairs of its pools, counted in a report. reward: its column; statistics: for guards."""

    def __init__(
        self,
        settings: CutSettings,
        reward: str,
        count: Callable[[str], int] | None,
        statistics: PoolStatistics | None,
        leave_out: Sequence[str],
        length_control: bool,
    ) -> None:
        self.settings, self.reward, self.count = settings, reward, count
        self.statistics, self.leave_out, self.length_control = statistics, leave_out, length_control
        self.report = CutReport(settings)
        self.flagged: Counter[str] = Counter()

    def pairs(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The pairs of some pools, as the rule cuts them."""
        with Reporter("pairs", 0) as reporter:
            for table in tables:
                cut_pools = cut(*self.apply_guards(table))
                self.report.add(cut_pools)
                reporter(Progress(rows=self.report.prompts, dropped=self.report.reasons.total()))
                yield with_length(cut_pools.pairs, self.settings, self.count)

    def apply_guards(self, table: pa.Table) -> tuple[pa.Table, CutSettings, Any]:
        """Pools with the rewards to cut by, and which answers may take part."""
        if self.statistics is None:
            return table, self.settings, None
        flags = self.statistics.flags(table) if self.leave_out else {}
        self.flagged.update(count_flags(flags))
        if self.length_control:
            table = with_rewards(table, self.statistics.adjust_rewards(table))
        usable = ~np.logical_or.reduce([flags[flag] for flag in self.leave_out]) if self.leave_out else None
        return table, self.settings, usable

    def count_kept(self, parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The same pairs; the report counts them as kept."""
        for pairs in parts:
            self.report.keep(pairs)
            yield pairs


def gather_statistics(tables: Iterator[pa.Table]) -> PoolStatistics:
    """What guards must know of all pools together."""
    facts = PoolFacts()
    with Reporter("looking", 0) as reporter:
        for table in tables:
            facts.add(table)
            reporter(Progress(rows=facts.prompts))
    return facts.statistics()


def with_length(pairs: pa.Table, settings: CutSettings, count: Callable[[str], int] | None) -> pa.Table:
    """RIP's pairs with the length that its limits look at."""
    if not isinstance(settings, Rip) or "rejected_length" in pairs.column_names:
        return pairs
    return pairs.append_column("rejected_length", pa.array(lengths_of(pairs["rejected"], count)))


def write_pairs(out: Path, parts: Iterator[pa.Table], settings: CutSettings) -> int:
    """Write pairs: how many. A file without pairs has their columns."""
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


def write_within_limits(
    cutter: PairCutter, settings: Rip, tables: Iterator[pa.Table], spill: Path, out: Path, source: str
) -> tuple[int, Thresholds]:
    """All pairs to the file `spill`, limits from their metrics or as they are stored, then the pairs within them to
    `out`. Returns how many pairs there are in all, and the limits.
    """
    limits, parts = fixed_limits(settings), cutter.pairs(tables)
    first = next(parts, None)
    first = no_pairs(settings) if first is None else first
    metrics_by_part: list[tuple[Any, ...]] = []
    with pa.ipc.new_file(spill, first.schema) as writer:
        for pairs in chain([first], prefetch(parts)):
            columns = (pairs[name] for name in ("rejected_reward", "rejected_length", "margin"))
            metrics_by_part.append(tuple(column.to_numpy() for column in columns))
            writer.write_table(pairs)
    metrics = dict(zip(LIMITS, map(np.concatenate, zip(*metrics_by_part, strict=True)), strict=True))
    if not settings.stored_limits:
        update = {"fitted_on": source, "reward": cutter.reward}
        limits = fit(metrics, settings.quantiles, limits).model_copy(update=update)
    elif limits.reward and limits.reward != cutter.reward:
        print(f"these limits are of the reward {limits.reward!r}; these rewards are {cutter.reward!r}", file=sys.stderr)
    cutter.report.leaves_out = {name: int((~good).sum()) for name, good in limits_met(metrics, limits).items()}
    good = keeps(metrics, limits)

    def pairs_within() -> Iterator[pa.Table]:
        start, file = 0, pa.ipc.open_file(pa.memory_map(str(spill)))
        for batch in map(file.get_batch, range(file.num_record_batches)):
            yield pa.table(batch).filter(pa.array(good[start : start + batch.num_rows]))
            start += batch.num_rows

    write_pairs(out, cutter.count_kept(pairs_within()), settings)
    return len(good), limits


def print_summary(summary: dict[str, Any], out: Path, notes: Any) -> None:
    """What was read, dropped and kept, in a line or two."""
    for line in describe_ends(summary):
        print(line, file=sys.stderr)
    for what, counts in (
        ("rows could not be read", summary["unreadable"]),
        ("prompts have no pair", summary["dropped"]),
    ):
        if counts:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            print(f"{sum(counts.values()):,} {what}: {reasons}", file=sys.stderr)
    for note in notes:
        print(note, file=sys.stderr)
    if not summary["kept"] and summary["leaves_out"]:
        alone = ", ".join(f"{name} leaves out {count:,}" for name, count in summary["leaves_out"].items())
        print(f"nothing was kept: {alone} of {summary['pairs']:,} pairs", file=sys.stderr)
    share = f" of {summary['pairs']:,} ({summary['kept_share']:.1%})" if summary["kept"] != summary["pairs"] else ""
    print(f"{summary['kept']:,} pairs{share} from {summary['prompts']:,} prompts -> {out}", file=sys.stderr)
