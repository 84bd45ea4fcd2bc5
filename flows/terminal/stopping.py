"""Ctrl-C and SIGTERM: the first one drains, the second one ends at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from synthmill.tasks.running.guard import guarded

STOP = threading.Event()
"""Set by the first signal: the run receives and stores what is in flight, then ends, resumable."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TAKEN_OVER = threading.Event()


@contextmanager
def stoppable() -> Iterator[None]:
    """Drain on signals inside this block; afterwards the earlier handlers are back, and no stop is pending."""
    if TAKEN_OVER.is_set() or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    TAKEN_OVER.set()
    take_over()
    try:
        yield
    finally:
        TAKEN_OVER.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        STOP.clear()


@contextmanager
def working() -> Iterator[None]:
    """Every command that makes artifacts works inside this block: it leaves no process behind, and signals drain it.
    Afterwards this process is as it was.
    """
    with guarded(), stoppable():
        yield


def take_over() -> None:
    """Install our signal handlers, in the main thread; call it again after a library has replaced them."""
    if not TAKEN_OVER.is_set():
        return

    def drain_or_interrupt(_number: int, _frame: FrameType | None) -> None:
        if STOP.is_set():
            raise KeyboardInterrupt
        STOP.set()
        print(
            "\nstopping: waiting for what is in flight; press Ctrl-C again to stop at once", file=sys.stderr, flush=True
        )

    for number in SIGNALS:
        signal.signal(number, drain_or_interrupt)
