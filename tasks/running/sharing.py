"""How a stage's work is shared out: how many workers, how many parts each holds at once, what they came to together."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from schemas.artifacts import add_spent
from schemas.progress import Progress
from schemas.settings import EngineSettings
from tasks.running.job import Job

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
    """How many parts a worker holds at once: at least two, and enough rows to fill its window twice over."""
    window = sum(settings.concurrency for settings in roles.values()) / workers
    rows = max(1.0, sum(job.source.rows for job in jobs) / max(1, len(jobs)))
    return min(2 + int(2 * window / rows), 64)


def added(progress: Sequence[Progress]) -> Progress:
    """What several workers have done."""
    return Progress(
        rows=sum(p.rows for p in progress),
        dropped=sum(p.dropped for p in progress),
        reasons=dict(sum((Counter(p.reasons) for p in progress), Counter())),
        in_flight=sum(p.in_flight for p in progress),
        spent=add_spent(p.spent for p in progress),
        silent_s=silent_everywhere(progress),
    )


def silent_everywhere(progress: Sequence[Progress]) -> dict[str, float]:
    """The engines that answer no worker that has asked them."""
    asking = [p for p in progress if p.in_flight]
    names = set.intersection(*(set(p.silent_s) for p in asking)) if asking else set()
    return {name: min(p.silent_s[name] for p in asking) for name in sorted(names)}
