"""How a stage's work is shared out: how many workers, how many parts each holds at once, and their total progress."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from synthmill.schemas.artifacts import add_spent
from synthmill.schemas.progress import Progress, Waiting
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.running.job import Job
from synthmill.tasks.running.lanes import LOOK_AHEAD

POLL_S = 0.25


def workers_for(roles: Mapping[str, EngineSettings], workers: int | None, cores: int | None = None) -> int:
    """How many workers a stage gets: one per replica of a model in process, else as set, else cores - 1, at most 8.

    cores: of this machine, or of a cluster.
    """
    replicas = [settings.replicas for settings in roles.values() if settings.in_process]
    if replicas:
        return max(replicas)
    return workers if workers else max(1, min((cores or os.cpu_count() or 2) - 1, 8))


def parts_ahead(roles: Mapping[str, EngineSettings], workers: int, jobs: Sequence[Job]) -> int:
    """How many parts a worker holds at once: at least two, enough rows to fill its window twice over (and, where an
    engine may cache prefixes, those that are put in order), and as many again that are being sealed, which waits for
    the disk. Several workers with few parts each get only those that fill the window, so that none is left with more
    than the others. Where an engine asks in batches: what its window holds.
    """
    rows = max(1.0, sum(job.source.rows for job in jobs) / max(1, len(jobs)))
    if windows := [settings.batch.window for settings in roles.values() if settings.batch]:
        return 2 + int(max(windows) / rows)
    window = sum(settings.concurrency for settings in roles.values()) / workers
    ahead = LOOK_AHEAD * any(settings.kind == "vllm" for settings in roles.values())
    filling = min(2 + int((2 * window + ahead) / rows), 64)
    return 2 * filling if workers == 1 else min(2 * filling, max(filling, len(jobs) // (4 * workers)))


def sum_progress(reports: Sequence[Progress]) -> Progress:
    """The progress of several workers together."""
    return Progress(
        rows=sum(report.rows for report in reports),
        dropped=sum(report.dropped for report in reports),
        reasons=dict(sum((Counter(report.reasons) for report in reports), Counter())),
        in_flight=sum(report.in_flight for report in reports),
        spent=add_spent(report.spent for report in reports),
        silent_s=silent_everywhere(reports),
        waiting=waiting_everywhere(reports),
        batches=tuple(batch for report in reports for batch in report.batches),
    )


def waiting_everywhere(reports: Sequence[Progress]) -> dict[str, Waiting]:
    """The requests that wait in any worker, by engine."""
    names = sorted({name for report in reports for name in report.waiting})
    waits = {name: [report.waiting[name] for report in reports if name in report.waiting] for name in names}
    return {
        name: Waiting(
            requests=sum(wait.requests for wait in of_name),
            until=max(wait.until for wait in of_name),
            reason=of_name[-1].reason,
        )
        for name, of_name in waits.items()
    }


def silent_everywhere(reports: Sequence[Progress]) -> dict[str, float]:
    """The engines that answer none of the workers with requests in flight: name -> seconds of silence."""
    asking = [report for report in reports if report.in_flight]
    names = set.intersection(*(set(report.silent_s) for report in asking)) if asking else set()
    return {name: min(report.silent_s[name] for report in asking) for name in sorted(names)}
