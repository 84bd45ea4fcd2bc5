"""Progress of a stage: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from synthmill.schemas.bill import added_up, count_text, money_text
from synthmill.schemas.progress import Progress

LINE_EVERY_S = 10.0
SHOWN: ContextVar[bool] = ContextVar("progress", default=True)
BAR = 30
BATCH_LINE_EVERY_S = 600.0
PACE_S = 60.0
"""How far back the time left looks: what was stored before a run, and came at once, is soon forgotten."""
Cost = Callable[[Mapping[str, Mapping[str, int]]], float]


@contextmanager
def shows_progress(shown: bool) -> Iterator[None]:
    """Whether reporters in this context show anything."""
    token = SHOWN.set(shown)
    try:
        yield
    finally:
        SHOWN.reset(token)


class NotebookBar:
    """A line with a bar below a notebook's cell, which is written over: it needs no widgets (rich's bar does)."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, stage: str, share: float, line: str) -> None:
        full = round(BAR * min(1.0, share))
        text = f"{stage:<16} {'█' * full}{'░' * (BAR - full)} {line}"
        self._handle.update({"text/plain": text}, raw=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Pace:
    """How fast a stage works. rows: of the stage; calls: the most that they take. Where they take some, the time until
    the first is sent, for workers that start and models that load, is no part of it.
    """

    def __init__(self, rows: int, calls: int, started: float) -> None:
        self.rows, self.calls, self.began = rows, calls, started
        self._points = deque[tuple[float, float]]([] if calls else [(started, 0.0)])

    def note(self, progress: Progress, now: float) -> None:
        """Take in how far the stage is. Rows end late where each takes many calls, so the further of both counts."""
        if not (progress.rows or progress.in_flight or progress.spent):
            return
        if not self._points and not progress.rows:
            self.began = now
        sent = added_up(progress.spent.values()).get("sent", 0)
        share = max(progress.rows / self.rows if self.rows else 0.0, sent / self.calls if self.calls else 0.0)
        if len(self._points) > 1 and self._points[-1][1] == self._points[-2][1] == min(1.0, share):
            self._points.pop()  # hours may pass before a batch is answered
        self._points.append((now, min(1.0, share)))
        while len(self._points) > 2 and self._points[1][0] <= now - PACE_S and self._points[1][1] < share:
            self._points.popleft()

    def left_s(self) -> float | None:
        """Seconds to the end at the pace of the last minute; None where nothing has come since it began."""
        (start, before), (end, share) = (self._points[0], self._points[-1]) if self._points else ((0, 0), (0, 0))
        return (1 - share) * (end - start) / (share - before) if share > before else None


class Reporter:
    """`with Reporter("answers", rows=200) as report: report(progress)`; rows, rate, tokens and time left. rows: 0 where
    their number is unknown. cost: money for what each role spent. calls: the most that the rows take.
    """

    def __init__(self, stage: str, rows: int, quiet: bool = False, cost: Cost = lambda _: 0.0, calls: int = 0) -> None:
        self.stage, self.rows, self.quiet, self.cost = stage, rows, quiet or not SHOWN.get(), cost
        self.latest = Progress()
        self._started = self._printed_at = time.monotonic()
        self.pace = Pace(rows, calls, self._started)
        self._bar: Any = None
        self._notebook: NotebookBar | None = None
        self._answered: list[int] = []

    def __enter__(self) -> "Reporter":
        if not self.quiet and in_notebook():
            self._notebook = NotebookBar()
        elif not self.quiet and sys.stderr.isatty():
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
        self.pace.note(progress, time.monotonic())
        if self._notebook:
            self._notebook.show(self.stage, progress.rows / self.rows if self.rows else 0.0, self.line())
        elif self._bar:
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
        if self._notebook and error is None and self.latest.rows:
            self._notebook.show(self.stage, 1.0, self.line())
        elif not self.quiet and error is None and self.latest.rows:
            print(f"{self.stage}: {self.line()}", file=sys.stderr, flush=True)

    def _pause_s(self) -> float:
        """Seconds between two lines: while batches are waited for, many, unless more is answered."""
        answered = [batch.answered for batch in self.latest.batches]
        return BATCH_LINE_EVERY_S if answered and answered == self._answered else LINE_EVERY_S

    def line(self) -> str:
        """`120 of 200 rows, 3 dropped, 480 calls (20 reused), 96,000 tokens, 12.3 rows/s, 6 s left`."""
        latest, now = self.latest, time.monotonic()
        counters = added_up(latest.spent.values())
        sent, reused = (int(counters.get(name, 0)) for name in ("sent", "reused"))
        rate = latest.rows / max(1e-6, now - self.pace.began)
        parts = [f"{latest.rows:,} of {self.rows:,} rows" if self.rows else f"{latest.rows:,} rows"]
        if latest.dropped:
            parts.append(f"{latest.dropped:,} dropped")
        if sent or reused:
            parts.append(f"{sent:,} calls" + (f" ({reused:,} reused)" if reused else ""))
            parts.append(f"{count_text(counters, 'completion_tokens')} tokens")
        if money := self.cost(latest.spent):
            parts.append(f"{money_text(money)} spent")
        if latest.rows:
            parts.append(f"{rate:,.1f} rows/s" if rate >= 1 else f"{60 * rate:.1f} rows/min")
        if latest.rows >= (self.rows or 1):
            parts.append(format_duration(now - self._started))
        elif (left := self.pace.left_s()) is not None:
            parts.append(f"{format_duration(left)} left")
        parts += [
            f"{waiting.requests:,} requests wait until {clock(waiting.until)} ({waiting.reason})"
            for waiting in latest.waiting.values()
        ]
        parts += [
            f"{engine} has not answered for {format_duration(silent)}"
            for engine, silent in latest.silent_s.items()
            if engine not in latest.waiting
        ]
        parts += [
            f"{batch.engine}: {batch.answered:,} of {batch.requests:,} requests answered in "
            + (f"{batch.batches} batches" if batch.batches > 1 else "a batch")
            + f", submitted {format_duration(batch.waited_s)} ago"
            for batch in latest.batches
        ]
        return ", ".join(parts)


def clock(moment: float) -> str:
    """A moment as a clock shows it, 14:05:30. moment: seconds since 1970."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def format_duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 2 h 5 min."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"
