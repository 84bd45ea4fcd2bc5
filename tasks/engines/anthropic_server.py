"""Anthropic's models, natively, or whatever server speaks its Messages API."""

import os
from collections.abc import Mapping
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.anthropic_messages import error_in, messages_body, read_message
from synthmill.tasks.engines.blame import HELLO, PROBE_TOKENS
from synthmill.tasks.engines.remote_model import RemoteModel, model_name
from synthmill.tasks.engines.served import check_key, server_url
from synthmill.tasks.engines.transport import Reply, Transport, make_transport

ANTHROPIC = "https://api.anthropic.com"
VERSION = "2023-06-01"
"""Later versions of the API refuse temperature and top_p, which stages set."""


class AnthropicServer(RemoteModel):
    """One model behind the Messages API: one request an answer, without a seed, which the API does not take."""

    def __init__(self, settings: EngineSettings) -> None:
        url = server_url(settings, ANTHROPIC).removesuffix("/v1")
        super().__init__(settings, model_name(settings), url, os.environ.get(settings.api_key_env))
        self._transport: Transport | None = None

    async def open(self) -> None:
        check_key(self.settings)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "anthropic-version": VERSION}
        if self._key:
            headers["x-api-key"] = self._key
        self._transport = make_transport(self.url + "/v1/messages", headers, self.settings.timeout_s)

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()
            self._transport = None

    def body_of(self, request: Request, seed: int) -> dict[str, Any]:
        return messages_body(request, self.settings)

    def hello(self) -> dict[str, Any]:
        message = {"role": "user", "content": HELLO}
        return {"model": self.settings.model, "max_tokens": PROBE_TOKENS, "messages": [message]}

    async def send(self, body: Mapping[str, Any]) -> Reply:
        assert self._transport is not None
        return await self._transport.post(orjson.dumps(body))

    def read(self, request: Request, data: bytes, latency_s: float) -> Completion:
        return read_message(request, data, latency_s)

    def error_in(self, status: int, data: bytes) -> tuple[int, str]:
        return error_in(status, data)
