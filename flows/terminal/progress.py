"""Progress of a stage: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from synthmill.schemas.progress import Progress

LINE_EVERY_S = 10.0
BATCH_LINE_EVERY_S = 600.0
Cost = Callable[[Mapping[str, Mapping[str, int]]], float]


class Reporter:
    """`with Reporter("answers", rows=200) as report: report(progress)`; rows, rate, tokens and time left. rows: 0 where
    their number is unknown. cost: money for what each role spent.
    """

    def __init__(self, stage: str, rows: int, quiet: bool = False, cost: Cost = lambda _: 0.0) -> None:
        self.stage, self.rows, self.quiet, self.cost = stage, rows, quiet, cost
        self.latest = Progress()
        self._started = self._printed_at = time.monotonic()
        self._bar: Any = None
        self._answered: list[int] = []

    def __enter__(self) -> "Reporter":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = [TextColumn("{task.description:<16}"), BarColumn(30), TextColumn("{task.fields[line]}")]
            self._bar = Bars(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task(self.stage, total=self.rows or None, line="")
        return self

    def __call__(self, progress: Progress) -> None:
        self.latest = progress
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=progress.rows, line=self.line())
        elif not self.quiet and time.monotonic() - self._printed_at >= self._pause_s():
            self._printed_at = time.monotonic()
            self._answered = [batch.answered for batch in progress.batches]
            print(f"{self.stage}: {self.line()}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if not self.quiet and error is None and self.latest.rows:
            print(f"{self.stage}: {self.line()}", file=sys.stderr, flush=True)

    def _pause_s(self) -> float:
        """Seconds between two lines: while batches are waited for, many, unless more is answered."""
        answered = [batch.answered for batch in self.latest.batches]
        return BATCH_LINE_EVERY_S if answered and answered == self._answered else LINE_EVERY_S

    def line(self) -> str:
        """`120 of 200 rows, 3 dropped, 480 calls (20 reused), 96,000 tokens, 12.3 rows/s, 6 s left`."""
        latest, seconds = self.latest, max(1e-6, time.monotonic() - self._started)
        sent, reused, tokens = (
            sum(counts.get(counter, 0) for counts in latest.spent.values())
            for counter in ("sent", "reused", "completion_tokens")
        )
        rate = latest.rows / seconds
        parts = [f"{latest.rows:,} of {self.rows:,} rows" if self.rows else f"{latest.rows:,} rows"]
        if latest.dropped:
            parts.append(f"{latest.dropped:,} dropped")
        if sent or reused:
            parts.append(f"{sent:,} calls" + (f" ({reused:,} reused)" if reused else ""))
            parts.append(f"{tokens:,} tokens")
        if money := self.cost(latest.spent):
            parts.append(f"{money:,.2f} spent")
        parts.append(f"{rate:,.1f} rows/s" if rate >= 1 else f"{60 * rate:.1f} rows/min")
        if latest.rows and latest.rows < self.rows:
            parts.append(f"{format_duration((self.rows - latest.rows) / rate)} left")
        elif latest.rows:
            parts.append(format_duration(seconds))
        parts += [
            f"{engine} has not answered for {format_duration(silent)}" for engine, silent in latest.silent_s.items()
        ]
        parts += [
            f"{batch.engine}: {batch.answered:,} of {batch.requests:,} requests answered in "
            + (f"{batch.batches} batches" if batch.batches > 1 else "a batch")
            + f", submitted {format_duration(batch.waited_s)} ago"
            for batch in latest.batches
        ]
        return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 2 h 5 min."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"
