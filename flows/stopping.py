"""Ctrl-C and SIGTERM: the first one drains, the second one ends at once."""

import signal
import sys
import threading
from types import FrameType

STOP = threading.Event()
"""Set by the first signal: what is in flight is received and stored, then the run ends, resumable."""


TAKEN_OVER = threading.Event()


def stop_on_signals() -> None:
    """Take over SIGINT and SIGTERM, in the main thread; again where a library has replaced our answer to them."""
    TAKEN_OVER.set()

    def ask(number: int, _frame: FrameType | None) -> None:
        if STOP.is_set():
            raise KeyboardInterrupt
        STOP.set()
        print(
            "\nstopping: waiting for what is in flight; press Ctrl-C again to stop at once", file=sys.stderr, flush=True
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
