"""Gemini and Bedrock, through any-llm: one client that puts their APIs into the words of OpenAI's.

The client makes requests and reads answers; attempts, windows and errors are ours, so it retries nothing itself.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineRefused, MissingExtra
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.anthropic_messages import ANSWER_TOOL, drawing_fields
from synthmill.tasks.engines.blame import HELLO, PROBE_TOKENS
from synthmill.tasks.engines.provider_replies import error_reply, read_completion, thrown_status
from synthmill.tasks.engines.remote_model import RemoteModel, model_name
from synthmill.tasks.engines.served import check_key, server_url
from synthmill.tasks.engines.structures import answer_schema
from synthmill.tasks.engines.transport import CONNECT_TIMEOUT_S, NO_HEADERS, Reply
from synthmill.tasks.engines.wire_messages import chat_messages

EXTRA = "any-llm is not installed; `pip install 'synthmill[providers]'`, or name another engine (openai:MODEL@URL)"
CLAUDE = "anthropic."
"""What the names of Claude's models on Bedrock hold."""


class ProviderClient(RemoteModel):
    """One model of Gemini or Bedrock, under a name such as gemini:MODEL."""

    def __init__(self, settings: EngineSettings) -> None:
        check_installed()
        named = settings.base_url or os.environ.get(settings.base_url_env)
        self._base = server_url(settings) if named else None
        url = self._base or settings.kind
        super().__init__(settings, model_name(settings), url, os.environ.get(settings.api_key_env))
        self._client: Any = None

    async def open(self) -> None:
        """Make the client. Raises EngineRefused without a key, or without AWS's credentials and region."""
        import any_llm

        logging.getLogger("any_llm").setLevel(logging.ERROR)  # it warns at every request that boto3 blocks a thread
        kind, limit = self.settings.kind, self.settings.concurrency
        check_key(self.settings)
        if kind == "bedrock":
            # boto3 blocks a thread for each request, and the loop's own pool has few
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(limit + 4))
            options: dict[str, Any] = {
                "client": Converse(bedrock_client(self._base, self._key, limit, self.settings.timeout_s))
            }
        else:
            options = {"http_options": {"timeout": int(self.settings.timeout_s * 1000)}}
        self._client = any_llm.AnyLLM.create(kind, api_key=self._key, api_base=self._base, **options)

    async def close(self) -> None:
        self._client = None

    def body_of(self, request: Request, seed: int) -> dict[str, Any]:
        return completion_fields(request, seed, self.settings)

    def hello(self) -> dict[str, Any]:
        message = {"role": "user", "content": HELLO}
        return {"model": self.settings.model, "messages": [message], "max_tokens": PROBE_TOKENS}

    async def send(self, body: Mapping[str, Any]) -> Reply:
        try:
            completion = await asyncio.wait_for(self._client.acompletion(**body), self.settings.timeout_s)
        except Exception as error:  # each provider's client has errors of its own
            return error_reply(error, self.settings.timeout_s)
        return 200, completion.model_dump_json().encode(), NO_HEADERS

    def read(self, request: Request, data: bytes, latency_s: float) -> Completion:
        return read_completion(request, data, latency_s)

    def error_in(self, status: int, data: bytes) -> tuple[int, str]:
        message = data.decode(errors="replace")
        return thrown_status(status, message), message


def completion_fields(request: Request, seed: int, settings: EngineSettings) -> dict[str, Any]:
    """What the client is asked; only what is set. What `options` say wins, and null there leaves a field out."""
    sampling, thinking, gemini = request.sampling, settings.thinking, settings.kind == "gemini"
    thinks, is_claude = bool(thinking.tokens or thinking.effort), not gemini and CLAUDE in settings.model
    both = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    fields: dict[str, Any] = {
        "model": settings.model,
        "messages": chat_messages(request.messages),
        **({} if is_claude and thinks else drawing_fields(sampling) if is_claude else both),
        "max_tokens": sampling.max_tokens and sampling.max_tokens + (thinking.tokens or 0),
        "stop": list(sampling.stop) or None,
        "seed": seed if gemini else None,  # Bedrock takes none
        "tools": list(request.tools) or None,
        **(gemini_thinking(settings) if gemini else bedrock_thinking(settings)),
    }
    if schema := answer_schema(request):
        if gemini:
            form = {"name": ANSWER_TOOL, "schema": schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        else:
            function = {"name": ANSWER_TOOL, "description": "Give the answer in this form.", "parameters": schema}
            fields["tools"] = [{"type": "function", "function": function}]
            fields["tool_choice"] = None if thinks else "required"  # Claude lets none be forced when it thinks
    return {name: value for name, value in (fields | settings.options).items() if value is not None}


def gemini_thinking(settings: EngineSettings) -> dict[str, Any]:
    thinking = settings.thinking
    if thinking.mode == "off":
        return {"thinking_config": {"thinking_budget": 0}}
    if thinking.tokens:
        return {"thinking_config": {"include_thoughts": True, "thinking_budget": thinking.tokens}}
    return {"reasoning_effort": thinking.effort} if thinking.effort else {}


def bedrock_thinking(settings: EngineSettings) -> dict[str, Any]:
    """Bedrock passes what a model alone knows through `additionalModelRequestFields`; this is Claude's."""
    thinking = settings.thinking
    if thinking.tokens:
        config = {"type": "enabled", "budget_tokens": thinking.tokens}
        return {"additionalModelRequestFields": {"reasoning_config": config}}
    return {"reasoning_effort": thinking.effort} if thinking.effort else {}


class Converse:
    """boto3's client, with two facts that any-llm leaves out put where they reach us: into the answer's id."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def converse(self, **fields: Any) -> dict[str, Any]:
        answer = self._client.converse(**fields)
        facts = {"stop_reason": answer.get("stopReason"), "usage": answer.get("usage")}
        return {**answer, "id": orjson.dumps(facts).decode()}


def bedrock_client(base: str | None, key: str | None, limit: int, timeout_s: float) -> Any:
    """boto3's client, which makes one attempt. Raises EngineRefused without credentials or a region."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"total_max_attempts": 1},
        max_pool_connections=limit,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=timeout_s,
    )
    try:
        session = boto3.Session()
        if not key and session.get_credentials() is None:
            raise EngineRefused("bedrock wants credentials; set AWS_BEARER_TOKEN_BEDROCK, or AWS's own variables")
        return session.client("bedrock-runtime", endpoint_url=base, config=config)
    except BotoCoreError as error:
        raise EngineRefused(
            f"bedrock cannot be asked ({error}); set AWS_DEFAULT_REGION and AWS's credentials"
        ) from error


def check_installed() -> None:
    """Raises MissingExtra without the client; it is not loaded yet."""
    from importlib.util import find_spec

    if find_spec("any_llm") is None:
        raise MissingExtra(EXTRA)
