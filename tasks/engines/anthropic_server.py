"""Anthropic's models, natively, or whatever server speaks its Messages API."""

from typing import Any

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.schemas.texts import loads
from synthmill.tasks.engines.anthropic_messages import error_in, messages_body, read_message
from synthmill.tasks.engines.dialect import Written
from synthmill.tasks.engines.provider_dialect import ProviderDialect
from synthmill.tasks.engines.refusals import Refusal
from synthmill.tasks.engines.remote_model import SingleAnswers
from synthmill.tasks.engines.served import check_key, endpoint, secrets_of
from synthmill.tasks.engines.transport import Reply, Transport, make_transport

VERSION = "2023-06-01"
"""Later versions of the API refuse temperature and top_p, which stages set."""
PATH = "/v1/messages"
OPTIONAL = ("temperature", "top_p", "stop_sequences", "thinking", "output_config")
FORM_FIELDS = {"tool": ("tools", "tool_choice"), "json_schema": ("output_config",)}


class AnthropicServer(SingleAnswers):
    """One model behind the Messages API: one request an answer, without a seed, which the API does not take."""

    def __init__(self, settings: EngineSettings) -> None:
        dialect = messages_dialect(settings)
        super().__init__(settings, dialect.name, dialect)
        self._transport: Transport | None = None

    async def open(self) -> None:
        check_key(self.settings)
        self._secrets = secrets_of(self.settings)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "anthropic-version": VERSION}
        address = endpoint(self.settings, PATH)
        self._transport = make_transport(address, headers | self._secrets, self.settings.timeout_s)

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()
            self._transport = None

    async def send(self, body: bytes) -> Reply:
        assert self._transport is not None
        return await self._transport.post(body)

    def read(self, request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
        return [read_message(request, data, latency_s)]

    def holds_answer(self, data: bytes) -> bool:
        return isinstance(loads(data)["content"], list)

    def refusal_in(self, status: int, data: bytes) -> Refusal:
        refusal = super().refusal_in(status, data)
        status, message = error_in(status, data)
        for secret in self._hidden:
            message = message.replace(secret, "***")
        return refusal._replace(status=status, message=" ".join(message.split())[:300])


def messages_dialect(settings: EngineSettings) -> ProviderDialect:
    """How the Messages API is asked. With thinking, no tool may be forced."""
    thinks = bool(settings.thinking.tokens or settings.thinking.effort)
    ladder: tuple[Structure, ...] = ("json_schema", "none") if thinks else ("json_schema", "tool", "none")

    def write_body(
        request: Request, seed: int, settings: EngineSettings, structure: Structure | None
    ) -> dict[str, Any]:
        return messages_body(request, settings, structure)

    return ProviderDialect(settings, ladder, ladder[-2], write_body, OPTIONAL, FORM_FIELDS)
