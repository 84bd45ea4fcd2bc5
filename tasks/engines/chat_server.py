"""Any OpenAI-compatible server. Requests are written in dialect.py, replies read in replies.py; attempts, waits and
refusals are those of every remote model (remote_model.py).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.usage import Tokens, reported_tokens
from synthmill.tasks.engines.dialect import Dialect, TextDialect, Written
from synthmill.tasks.engines.refusals import FewerAnswers
from synthmill.tasks.engines.remote_model import RemoteModel
from synthmill.tasks.engines.replies import answer_in, choices_in, completions_in
from synthmill.tasks.engines.scored_answers import FIELD, AnswerScoring, prompt_tokens_in, refused
from synthmill.tasks.engines.served import CHAT, COMPLETIONS, endpoint, model_cards, secrets_of, server_name
from synthmill.tasks.engines.transport import Reply, Transport, make_transport

LOSSES_BELIEVED = 4


class ChatServer(RemoteModel):
    """One model behind one server. It scores given answers where the server does, as vLLM's, and continues open turns
    where the server has raw completions.
    """

    scores_answers = opens_turns = True
    path, dialect_of = CHAT, Dialect

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings, server_name(settings), self.dialect_of(settings))
        self._texts: TextServer | None = None
        self._transport: Transport | None = None
        self._scoring = AnswerScoring()
        self._has_scored = False

    async def open(self) -> None:
        self._secrets = secrets_of(self.settings)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **self._secrets}
        self._transport = make_transport(endpoint(self.settings, self.path), headers, self.settings.timeout_s)

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()
            self._transport = None
        if self._texts:
            await self._texts.close()
            self._texts = None

    def stop(self) -> None:
        super().stop()
        if self._texts:
            self._texts.stop()

    @property
    def learned(self) -> dict[str, Any]:
        return {**super().learned, **(self._texts.learned if self._texts else {})}

    async def send(self, body: bytes) -> Reply:
        assert self._transport is not None
        return await self._transport.post(body)

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        if request.open_turn:
            return await self._continue(request, seed, count)
        if not request.scored:
            return await super().complete(request, seed, count)
        return [await self._scoring.score(request, self._ask_to_score)] * count

    async def _continue(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        """The texts that continue an open turn."""
        if self._texts is None:
            self._texts = TextServer(self.settings)
            self._texts.waits, self._texts.pace = self.waits, self.pace
            await self._texts.open()
        completions = await self._texts.complete(request, seed, count)
        self.limit = self._texts.limit
        return completions

    async def _ask_to_score(self, request: Request) -> Completion:
        """One request's completion, with its prompt's tokens. Raises EngineRefused where the server refuses to."""
        [completion] = await super().complete(request, 0, 1)
        if completion.error and FIELD in completion.error:
            raise refused(f"{self.url} gives no log probabilities of given answers ({completion.error})", request)
        return completion

    def _scored(self, request: Request, answer: Any, latency_s: float) -> Completion:
        """A completion with the tokens of its prompt. Raises EngineRefused where the server never gave them."""
        choices_in(answer)
        if not (entries := answer.get(FIELD)) and not self._has_scored:
            raise refused(f"{self.url} gives no log probabilities of given answers ({FIELD})", request)
        self._has_scored = True
        usage = answer.get("usage") or {}
        prompt_tokens, completion_tokens, *_ = reported_tokens(usage) or Tokens(len(entries or ()), 1)
        return Completion(
            text="",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            latency_s=round(latency_s, 4),
            logprobs=prompt_tokens_in(entries) if entries else None,
            usage=usage,
        )

    def read(self, request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
        if request.scored:
            return [self._scored(request, answer_in(data), latency_s)]
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


class TextServer(ChatServer):
    """The same model behind the same server's raw completions: it continues a text that no chat template wraps."""

    path, dialect_of = COMPLETIONS, TextDialect

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        return await RemoteModel.complete(self, request, seed, count)

    def read(self, request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
        answer = answer_in(data)
        for choice in choices_in(answer):
            choice["message"] = {"content": choice["text"]}
        return super().read(request, written, orjson.dumps(answer), count, latency_s)
