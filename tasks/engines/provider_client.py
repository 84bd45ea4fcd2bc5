"""Gemini and Bedrock, through any-llm: one client that puts their APIs into the words of OpenAI's.

The client makes requests and reads answers; attempts, windows and errors are ours, so it retries nothing itself.
"""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineRefused, MissingExtra
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.schemas.texts import loads
from synthmill.tasks.engines.anthropic_messages import ANSWER_TOOL, drawing_fields
from synthmill.tasks.engines.dialect import FORM_FIELDS, Written
from synthmill.tasks.engines.provider_dialect import ProviderDialect
from synthmill.tasks.engines.provider_replies import (
    THEIR_NAMES,
    error_reply,
    named_fields,
    read_completion,
    thrown_status,
)
from synthmill.tasks.engines.refusals import Refusal
from synthmill.tasks.engines.remote_model import SingleAnswers
from synthmill.tasks.engines.served import check_key, named_headers
from synthmill.tasks.engines.structures import answer_schema
from synthmill.tasks.engines.transport import CONNECT_TIMEOUT_S, NO_HEADERS, Reply
from synthmill.tasks.engines.wire_messages import chat_messages

EXTRA = "any-llm is not installed; `pip install 'synthmill[providers]'`, or name another engine (openai:MODEL@URL)"
CLAUDE = "anthropic."
"""What the names of Claude's models on Bedrock hold."""


class ProviderClient(SingleAnswers):
    """One model of Gemini or Bedrock, under a name such as gemini:MODEL."""

    def __init__(self, settings: EngineSettings) -> None:
        check_installed()
        dialect = provider_dialect(settings)
        super().__init__(settings, dialect.name, dialect)
        named = settings.base_url or os.environ.get(settings.base_url_env)
        self._base = self.url if named else None
        self._key = os.environ.get(settings.api_key_env)
        self._client: Any = None

    async def open(self) -> None:
        """Make the client. Raises EngineRefused without a key, or without AWS's credentials and region."""
        import any_llm

        logging.getLogger("any_llm").setLevel(logging.ERROR)  # it warns at every request that boto3 blocks a thread
        kind, limit = self.settings.kind, self.settings.concurrency
        check_key(self.settings)
        headers = named_headers(self.settings)
        self._secrets = headers | ({"key": self._key} if self._key else {})
        if kind == "bedrock":
            # boto3 blocks a thread for each request, and the loop's own pool has few
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(limit + 4))
            options: dict[str, Any] = {
                "client": Converse(bedrock_client(self._base, self._key, limit, self.settings.timeout_s))
            }
        else:
            options = {"http_options": {"timeout": int(self.settings.timeout_s * 1000), "headers": headers}}
        self._client = any_llm.AnyLLM.create(kind, api_key=self._key, api_base=self._base, **options)

    async def close(self) -> None:
        self._client = None

    async def send(self, body: bytes) -> Reply:
        try:
            completion = await asyncio.wait_for(self._client.acompletion(**loads(body)), self.settings.timeout_s)
        except Exception as error:  # each provider's client has errors of its own
            return error_reply(error, self.settings.timeout_s)
        return 200, completion.model_dump_json().encode(), NO_HEADERS

    def read(self, request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
        return [read_completion(request, data, latency_s)]

    def holds_answer(self, data: bytes) -> bool:
        return bool(loads(data)["choices"])

    def refusal_in(self, status: int, data: bytes) -> Refusal:
        refusal = super().refusal_in(status, data)
        return refusal._replace(
            status=thrown_status(status, refusal.message), places=refusal.places | named_fields(refusal.message)
        )


def provider_dialect(settings: EngineSettings) -> ProviderDialect:
    """How Gemini and Bedrock are asked through the client."""
    gemini = settings.kind == "gemini"
    ladder: tuple[Structure, ...] = ("json_schema", "tool", "none") if gemini else ("tool", "none")
    return ProviderDialect(settings, ladder, ladder[0], completion_fields, tuple(THEIR_NAMES.values()), FORM_FIELDS)


def completion_fields(
    request: Request, seed: int, settings: EngineSettings, structure: Structure | None = None
) -> dict[str, Any]:
    """What the client is asked; only what is set. structure: how an answer's form is asked for; by default as usual.
    What `options` say wins, and null there leaves a field out.
    """
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
    structure = structure or ("json_schema" if gemini else "tool")
    if structure != "none" and (schema := answer_schema(request)):
        if structure == "json_schema":
            form = {"name": ANSWER_TOOL, "schema": schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        else:
            function = {"name": ANSWER_TOOL, "description": "Give the answer in this form.", "parameters": schema}
            fields["tools"] = [{"type": "function", "function": function}]
            fields["tool_choice"] = (
                None if thinks and not gemini else "required"
            )  # Claude lets none be forced when it thinks
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
