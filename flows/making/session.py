"""Where a run or a command makes things: workers that are closed whatever happens, and a record of what was done."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from synthmill.flows.terminal.stopping import STOP, working
from synthmill.schemas.errors import SynthmillError
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import RunRecord, StageRun, record_run
from synthmill.storage.segments import seal_abandoned
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.limits import NO_LIMITS, RunLimits
from synthmill.tasks.running.parallel import RayPool, make_pool


@contextmanager
def workers_of(
    store: Store,
    run: str,
    workers: int | None,
    ray_address: str | None,
    limits: RunLimits = NO_LIMITS,
    stop: threading.Event = STOP,
) -> Iterator[InProcess | RayPool]:
    """A run's workers. At the end they seal what they wrote; a disk too full for that takes nothing that was answered:
    unsealed segments are read as they are.
    """
    seal_abandoned(store.calls)  # once, before every worker finds what an earlier version, or a killed run, left
    pool = make_pool(store, run, stop, workers, ray_address, limits)
    try:
        yield pool
    finally:
        for end in (pool.close, lambda: seal_abandoned(store.calls)):
            try:
                end()
            except (OSError, SynthmillError) as error:
                print(f"not all could be closed: {error}", file=sys.stderr, flush=True)


@contextmanager
def session(
    store: Store, record: RunRecord, workers: int | None, ray_address: str | None
) -> Iterator[tuple[InProcess | RayPool, list[StageRun]]]:
    """A command's run: its workers, and the list that takes what each step came to."""
    with (
        working(),
        record_run(store, record) as steps,
        workers_of(store, record.id, workers, ray_address) as pool,
    ):
        yield pool, steps
