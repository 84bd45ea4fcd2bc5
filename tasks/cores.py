"""Numeric work on all the cores that this process may use."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MapUnordered = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function of a module with each tuple of arguments, in the workers; results come in any order."""


def threads() -> int:
    """How many threads numeric work may use: what Ray sets for its workers, else all cores of this process."""
    thread_count = os.environ.get("OMP_NUM_THREADS", "")
    return int(thread_count) if thread_count.isdigit() and int(thread_count) > 0 else len(os.sched_getaffinity(0))


def on_all_cores(work: Callable[[int, int], object], count: int) -> None:
    """Call work(first, last) for even shares of `count` items, at the same time; it must release the GIL."""
    bounds = np.linspace(0, count, min(threads(), max(1, count)) + 1).astype(int)
    with ThreadPoolExecutor(len(bounds) - 1) as pool:
        list(pool.map(lambda share: work(*share), itertools.pairwise(bounds.tolist())))
