"""Numeric work on all the cores that this process may use."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Spread = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each of many arguments, wherever there are workers; results come in any order."""


def threads() -> int:
    """How many threads numeric work may use: a Ray worker is told, else all cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def on_all_cores(work: Callable[[int, int], object], count: int) -> None:
    """Call work(first, last) for even shares of `count` items, at the same time; it must release the GIL."""
    bounds = np.linspace(0, count, min(threads(), max(1, count)) + 1).astype(int)
    with ThreadPoolExecutor(len(bounds) - 1) as pool:
        list(pool.map(lambda share: work(*share), itertools.pairwise(bounds.tolist())))
