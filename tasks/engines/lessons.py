"""Noting in the store what refusals taught the engines of a worker."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.learned import learn
from synthmill.tasks.engines.served import server_url


@runtime_checkable
class Learner(Protocol):
    """An engine that refusals teach settings."""

    settings: EngineSettings

    @property
    def learned(self) -> dict[str, Any]: ...


def note_lessons(store: Store, engines: Iterable[object]) -> None:
    """Note what any of these engines has learned."""
    for engine in engines:
        if isinstance(engine, Learner) and engine.learned:
            learn(store, engine.settings.model, server_url(engine.settings), engine.learned)
