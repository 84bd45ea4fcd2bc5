"""Any OpenAI-compatible server. Requests are written in dialect.py, replies read in replies.py; attempts, waits and
refusals are those of every remote model (remote_model.py).
"""

import asyncio

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.dialect import Dialect, Written
from synthmill.tasks.engines.refusals import FewerAnswers
from synthmill.tasks.engines.remote_model import RemoteModel
from synthmill.tasks.engines.replies import answer_in, choices_in, completions_in
from synthmill.tasks.engines.served import CHAT, endpoint, model_cards, secrets_of, server_name
from synthmill.tasks.engines.transport import Reply, Transport, make_transport

LOSSES_BELIEVED = 4


class ChatServer(RemoteModel):
    """One model behind one server."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings, server_name(settings), Dialect(settings))
        self._transport: Transport | None = None

    async def open(self) -> None:
        self._secrets = secrets_of(self.settings)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **self._secrets}
        self._transport = make_transport(endpoint(self.settings, CHAT), headers, self.settings.timeout_s)

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()
            self._transport = None

    async def send(self, body: bytes) -> Reply:
        assert self._transport is not None
        return await self._transport.post(body)

    def read(self, request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
        try:
            completions = completions_in(request, written, data, count, latency_s)
        except FewerAnswers as error:
            if self._answered_at:
                raise
            raise EngineRefused(f"{self.url} {error}; set samples_per_call=1") from error
        self._blame.look_at_form(written, completions)
        return completions

    def holds_answer(self, data: bytes) -> bool:
        return bool(choices_in(answer_in(data)))

    async def _is_alive(self) -> bool:
        """Whether the server answers a probe or, where it has answered before and may be too busy now, lists its
        models. The list counts for LOSSES_BELIEVED losses in a row only.
        """
        if await self._answers_probe():
            return True
        if self._answered_request is None or self._losses >= LOSSES_BELIEVED:
            return False
        try:
            await asyncio.to_thread(model_cards, self.settings)
        except EngineError:
            return False
        return True
