"""Who waits for which batch, and what a batch that has ended means for them."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineRefused
from synthmill.schemas.progress import BatchProgress
from synthmill.storage.batches import Asked, BatchRecord
from synthmill.tasks.engines.batch_results import Collected
from synthmill.tasks.engines.batch_servers import Standing
from synthmill.tasks.engines.remote_model import failed_completions

FIRST_LOOK_S = 1.0
NOT_LOOKED_AT = Standing("submitted", ended=False)
NAMES_SHOWN = 3


@dataclass
class Waiting:
    """A request whose answers a row waits for. tries: batches that did not answer it."""

    asked: Asked
    request: Request
    seed: int
    future: "asyncio.Future[Sequence[Completion]]"
    tries: int = 0


@dataclass
class Submitted:
    """A batch that is not collected yet. is_earlier: another run submitted it."""

    record: BatchRecord
    is_earlier: bool = False
    next_look: float = 0.0
    pause_s: float = FIRST_LOOK_S
    standing: Standing = NOT_LOOKED_AT


Answered = tuple[Waiting, Sequence[Completion]]


def divide(
    collected: Collected, custom_ids: Sequence[str], waiting_for: Mapping[str, Waiting]
) -> tuple[list[Answered], list[tuple[Waiting, str]]]:
    """A batch's requests that rows wait for: those that have an answer or were refused, and those that may be asked
    again, with what went wrong.
    """
    results: list[Answered] = []
    unanswered: list[tuple[Waiting, str]] = []
    for custom_id in custom_ids:
        if waiting := waiting_for.get(custom_id):
            failure = collected.failures.get(custom_id)
            if custom_id in collected.completions:
                results.append((waiting, collected.completions[custom_id]))
            elif failure and not failure.again:
                results.append((waiting, failed_completions(len(waiting.asked.keys), failure.error)))
            else:
                unanswered.append((waiting, failure.error if failure else "engine_error: the batch has no result"))
    return results, unanswered


def hopeless(record: BatchRecord, standing: Standing, collected: Collected, unanswered: bool) -> EngineRefused | None:
    """The error of a batch after which the same must not simply be asked again."""
    if collected.refused:
        return collected.refused
    kept = f"{collected.answered:,} of {record.requests:,} requests were answered, and are kept"
    if standing.fault:
        return EngineRefused(
            f"{record.address} refused the batch {record.batch_id}: {standing.fault}; {kept}; see to that, or set "
            "smaller batches (batch.requests, batch.megabytes), and run the same command again"
        )
    if unanswered and record.status.startswith("cancel"):
        return EngineRefused(
            f"the batch {record.batch_id} at {record.address} was cancelled; {kept}; run the same command again to ask "
            "for the others"
        )
    return None


def progress_of(engine: str, batches: Iterable[Submitted]) -> BatchProgress | None:
    """What an engine's batches came to so far; None where there are none."""
    at_server = [batch for batch in batches if batch.record.batch_id]
    if not at_server:
        return None
    return BatchProgress(
        engine=engine,
        batches=len(at_server),
        answered=sum(batch.standing.answered for batch in at_server),
        requests=sum(batch.record.requests for batch in at_server),
        waited_s=time.time() - min(batch.record.made_at for batch in at_server),
    )


def in_words(engine: str, address: str, batches: Sequence[Submitted]) -> str:
    """What is at the server, for who wants to come back."""
    records = [batch.record for batch in batches]
    names = [record.batch_id or record.handle for record in records[:NAMES_SHOWN]]
    names += ["..."] * (len(records) > NAMES_SHOWN)
    many = f"{len(records)} batches" if len(records) > 1 else "1 batch"
    answered = sum(batch.standing.answered for batch in batches)
    requests = sum(record.requests for record in records)
    return (
        f"{engine}: {requests:,} requests are in {many} at {address} ({', '.join(names)}), {answered:,} of them "
        "answered"
    )
