"""Stages for tests, and pools to run them in."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from synthmill.storage.artifacts import Store
from synthmill.tasks.running.in_process import InProcess


@contextmanager
def in_process(store: Store, run: str = "run") -> Iterator[InProcess]:
    pool = InProcess(store, run, threading.Event())
    try:
        yield pool
    finally:
        pool.close()
