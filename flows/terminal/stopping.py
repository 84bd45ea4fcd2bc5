"""Ctrl-C and SIGTERM: the first one drains, the second one ends at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tasks.running.guard import guarded

STOP = threading.Event()
"""Set by the first signal: what is in flight is received and stored, then the run ends, resumable."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TAKEN_OVER = threading.Event()


@contextmanager
def stoppable() -> Iterator[None]:
    """Drain on signals while the work goes on; afterwards they mean what they meant before, and no stop is pending."""
    if TAKEN_OVER.is_set() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    TAKEN_OVER.set()
    take_over()
    try:
        yield
    finally:
        TAKEN_OVER.clear()
        for number, answer in before.items():
            signal.signal(number, answer or signal.SIG_DFL)
        STOP.clear()


@contextmanager
def working() -> Iterator[None]:
    """Whatever makes something does it in here: no process is left behind, signals drain, and afterwards this process
    is as it was.
    """
    with guarded(), stoppable():
        yield


def take_over() -> None:
    """Take over the signals, in the main thread; again where a library has replaced our answer to them."""
    if not TAKEN_OVER.is_set():
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        if STOP.is_set():
            raise KeyboardInterrupt
        STOP.set()
        print(
            "\nstopping: waiting for what is in flight; press Ctrl-C again to stop at once", file=sys.stderr, flush=True
        )

    for number in SIGNALS:
        signal.signal(number, ask)
