"""What an engine is, and how its settings make one."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.settings import PROVIDERS, EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.checkpoints import cached_commit, settled_checkpoint
from synthmill.storage.learned import learned_of


class Engine(Protocol):
    """A model that answers.

    `name` is the model's identity (id with revision, or the file's fingerprint), never an address; it is part of every
    call's key. `limit` is how many requests it takes at once now; the engine lowers it when its server is too busy.
    `samples_per_call` is how many answers to one prompt are asked for in one call. An engine that scores given answers
    has `scores_answers` (scored_answers.py), one that continues an open turn `opens_turns` (open_turns.py), one that
    computes a beginning that prompts share only once, while it remembers it, `caches_prefixes`.
    """

    name: str
    limit: int
    samples_per_call: int

    async def open(self) -> None:
        """Load or connect. Raises EngineError with one readable message."""

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        """`count` answers to one request; they carry `error` where this model can never answer it. Raises EngineError
        when the engine is gone.
        """

    def answered_before(self, request: Request) -> None:
        """Takes a request that this model answered in an earlier run, to probe with when the engine seems gone."""

    def stop(self) -> None:
        """The run stops: make no further attempts; answers on the wire are still received."""

    async def close(self) -> None:
        """Free everything; no process stays behind."""


def make_engine(settings: EngineSettings) -> Engine:
    """The engine that the settings name, not loaded yet."""
    if settings.kind == "openai":
        from synthmill.tasks.engines.chat_server import ChatServer

        return ChatServer(settings)
    if settings.kind == "anthropic":
        from synthmill.tasks.engines.anthropic_server import AnthropicServer

        return AnthropicServer(settings)
    if settings.kind in ("gemini", "bedrock"):
        from synthmill.tasks.engines.provider_client import ProviderClient

        return ProviderClient(settings)
    if settings.kind == "vllm":
        from synthmill.tasks.engines.vllm_engine import VLLMEngine

        return VLLMEngine(settings)
    if settings.kind == "llamacpp":
        from synthmill.tasks.engines.gguf import GGUF

        return GGUF(settings)
    if settings.kind == "worlds":
        from synthmill.tasks.engines.worlds import Worlds

        return Worlds(settings)
    from synthmill.tasks.engines.recording import Recording

    return Recording(settings)


def caches_prefixes(engine: Engine) -> bool:
    return getattr(engine, "caches_prefixes", False)


def failed_completion(error: str) -> Completion:
    """The answer to a request that a model can never answer. error: reason, colon, detail."""
    return Completion(text="", finish_reason="error", error=" ".join(error.split())[:400])


@cache
def _name(spec: str) -> str:
    return make_engine(EngineSettings.model_validate_json(spec)).name


def engine_name(settings: EngineSettings) -> str:
    """The model's identity, without loading it. Raises InputError when there is no such model."""
    return _name(settings.model_copy(update={"concurrency": 1}).model_dump_json())


def resolve(settings: EngineSettings, store: Store) -> EngineSettings:
    """Settings that mean the same in every process and at any time: a server without a model name is asked for it, a
    local path becomes absolute, and a name that may stand for several checkpoints gets its present one.
    """
    if settings.kind in PROVIDERS:
        from synthmill.tasks.engines.served import server_url

        return with_learned(settings, learned_of(store, settings.model, server_url(settings)))
    path = Path(settings.model).expanduser()
    if settings.kind not in ("openai", "vllm"):
        return settings.model_copy(update={"model": str(path.resolve())}) if path.exists() else settings
    if settings.kind == "openai":
        from synthmill.tasks.engines.served import checkpoint_served, only_model, server_url

        if not settings.model:
            settings = settings.model_copy(update={"model": only_model(settings)})
        settings = with_learned(settings, learned_of(store, settings.model, server_url(settings)))
        if settings.revision:
            return settings
        place, checkpoint = server_url(settings), checkpoint_served(settings)
    elif path.exists() or settings.revision:
        return settings.model_copy(update={"model": str(path.resolve())}) if path.exists() else settings
    else:
        place, checkpoint = "", cached_commit(settings.model)
    return settings.model_copy(update={"revision": settled_checkpoint(store, engine_name(settings), place, checkpoint)})


def with_learned(settings: EngineSettings, learned: Mapping[str, Any]) -> EngineSettings:
    """Settings with what refusals taught, where they leave that open."""
    options = learned.get("options", {}) if settings.auto_drop else {}
    structure = learned.get("structure", "auto") if settings.structure == "auto" else settings.structure
    return settings.model_copy(update={"options": {**options, **settings.options}, "structure": structure})
