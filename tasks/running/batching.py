"""How the driver and its worker treat engines that ask in batches."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from synthmill.schemas.calls import Completion, wire_seed
from synthmill.schemas.errors import LimitReached, SynthmillError
from synthmill.schemas.progress import BatchProgress
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.batches import Asked, Batches, BatchRecord
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.batched import Batched
from synthmill.tasks.engines.engine import Engine, engine_name
from synthmill.tasks.running.flights import Call
from synthmill.tasks.running.lanes import Lane


def batched_engine(settings: EngineSettings, store: Store, calls: CallStore) -> Engine | None:
    """The engine that asks in batches, not opened yet, where the settings say so."""
    return Batched(settings, Batches(store.root), calls) if settings.batch else None


async def answers_to(call: Call, engine: Engine, stage: str, step: str) -> Sequence[Completion]:
    """Ask an engine; one that asks in batches is told what has to be stored with the answers."""
    seed = wire_seed(call.keys[0])
    if isinstance(engine, Batched):
        request = call.request
        asked = Asked(call.request_json, call.samples, call.keys, request.role, stage, step, request.asked_again)
        return await engine.answers(asked, call.request, seed)
    return await engine.complete(call.request, seed, len(call.keys))


def stores_itself(engine: Engine) -> bool:
    """Whether the engine has stored its answers when it gives them."""
    return isinstance(engine, Batched)


def goes_on(engine: Engine, why: SynthmillError) -> bool:
    """Whether an engine still sends what it was given before the run ended: what a budget allowed is not submitted yet
    where it is asked in a batch.
    """
    return isinstance(engine, Batched) and isinstance(why, LimitReached)


def others_asked(lanes: Iterable[Lane]) -> bool:
    """Whether an engine that answers at once has requests in flight: with its answers, rows may ask more."""
    return any(lane.in_flight for lane in lanes if not isinstance(lane.engine, Batched))


def standings(engines: Iterable[Engine]) -> tuple[BatchProgress, ...]:
    return tuple(
        standing for engine in engines if isinstance(engine, Batched) and (standing := engine.standing()) is not None
    )


def say_what_is_in_batches(store: Store, roles: Mapping[str, EngineSettings]) -> None:
    """Warn where an engine is about to be asked one by one what it may be answering in a batch."""
    for name in {engine_name(settings) for settings in roles.values() if not settings.batch}:
        records = [record for record in Batches(store.root).records(name) if record.address and is_open(record)]
        if records:
            print(
                f"{name}: {sum(record.requests for record in records):,} requests are in batches that are not "
                "collected, and may be asked, and paid, again; to collect them first, run it with --batch",
                file=sys.stderr,
                flush=True,
            )


def is_open(record: BatchRecord) -> bool:
    return record.state != "stored"


def asks_in_batches(roles: Mapping[str, EngineSettings]) -> bool:
    """Whether a stage asks any engine in batches. It then runs in one process, which gathers them."""
    return any(settings.batch for settings in roles.values())
