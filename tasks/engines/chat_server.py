"""Any OpenAI-compatible server: attempts, waits and refusals. Requests are written in dialect.py, replies read in
replies.py.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import loads
from synthmill.tasks.engines.attempts import BUSY, Attempts
from synthmill.tasks.engines.blame import HELLO, PROBE_TOKENS, Blame
from synthmill.tasks.engines.dialect import Dialect, Written
from synthmill.tasks.engines.event_streams import completion_of_stream, is_stream
from synthmill.tasks.engines.pace import Pace
from synthmill.tasks.engines.refusals import Refusal, read_refusal
from synthmill.tasks.engines.replies import ErrorAnswer, choices_in, completions_of
from synthmill.tasks.engines.served import CHAT, endpoint, key_state, model_cards, secrets_of, server_name, server_url
from synthmill.tasks.engines.transport import NO_HEADERS, Headers, Transport, make_transport
from synthmill.tasks.engines.waits import Waits, pause_s, wait_s

PROBE_S = 60.0
PROBE_TRIES = 3
LOSSES_BELIEVED = 4


class Reserved(NamedTuple):
    """What the pace took up for an attempt."""

    paced: bool = False
    tokens: float = 0.0


UNPACED = Reserved()


class ChatServer:
    """One model behind one server. The window (`limit`) halves on 429, 503 and 529, and answers grow it back.

    Beside an EngineLearned, `learned` holds the settings that a refusal taught.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.name = server_name(settings)
        self.limit = settings.concurrency
        self.samples_per_call = settings.samples_per_call
        self.url = server_url(settings)
        self.waits = Waits()
        self.pace = Pace()
        self._dialect = Dialect(settings)
        self._blame = Blame(settings, self._dialect, self._answers)
        self._secrets: dict[str, str] = {}
        self._transport: Transport | None = None
        self._stopping = asyncio.Event()
        self._slowed_at = self._answered_at = 0.0
        self._answered_request: Request | None = None
        self._losses = 0  # since the last answer
        self._probing = asyncio.Lock()
        self._answers_since_change = 0

    @property
    def learned(self) -> dict[str, Any]:
        return self._blame.learned

    async def open(self) -> None:
        """Raises InputError where a header's variable is not set."""
        self._secrets = secrets_of(self.settings)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **self._secrets}
        self._transport = make_transport(endpoint(self.settings, CHAT), headers, self.settings.timeout_s)

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()
            self._transport = None

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        assert self._transport is not None
        written, version = self._dialect.write(request, seed, count), self._dialect.version
        body = orjson.dumps(written.body)
        started = time.monotonic()
        attempts = Attempts(self.settings.retries)
        while True:
            reserved = await self._turn() if self.pace.is_limited else UNPACED
            status, data, headers = await self._transport.post(body)
            if headers:
                self.pace.learn(headers)
            reason = "engine_error" if status else "engine_timeout"
            if status == 200:
                try:
                    completions = self._read(request, data, count, time.monotonic() - started, written)
                    self._note_answer(request, completions, reserved)
                    return completions
                except ErrorAnswer as error:
                    status, reason = error.status, error.reason
                except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                    fault = f"the answer is no chat completion ({type(error).__name__}: {error}): {data[:120]!r}"
                    data = " ".join(fault.split()).encode()
            refusal = read_refusal(status, data, self._hidden)
            if refusal.is_spent_quota:
                raise EngineRefused(
                    f"{self.url} wants to be paid ({status}: {refusal.message}); then run the same command again to "
                    "continue"
                )
            if (pause := attempts.pause_after(status, data, headers)) is None:
                if status in (400, 422) and await self._blame.says_again(request, written, version, refusal):
                    written, version = self._dialect.write(request, seed, count), self._dialect.version
                    body = orjson.dumps(written.body)
                    continue
                return await self._judge_refusal(refusal, count)
            if status in BUSY:
                self._slow_down(reserved)
            if attempts.exhausted:
                return await self._give_up(status, reason, refusal.message, attempts, count)
            words = f"{status}: {refusal.message}" if status else refusal.message
            if await self._stopped_within(pause, words[:120]):
                return failed_completions(count, "engine_error: the run was stopped")

    def answered_before(self, request: Request) -> None:
        self._answered_request = self._answered_request or request

    def stop(self) -> None:
        """Make no further attempts: a request between two attempts fails now, an answer on the wire is received."""
        self._stopping.set()

    async def _turn(self) -> Reserved:
        """Wait for the turn that the server's limits give a request."""
        seconds, tokens = self.pace.turn()
        if seconds:
            await self._stopped_within(seconds, self.pace.reason())
        return Reserved(True, tokens)

    async def _stopped_within(self, seconds: float, reason: str) -> bool:
        """Sleep between two attempts; True as soon as the run is stopped."""
        number = self.waits.begin(seconds, reason)
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        finally:
            self.waits.end(number)
        return True

    def _body(self, request: Request, seed: int, count: int) -> dict[str, Any]:
        """A request's body, for whoever sends it otherwise."""
        return self._dialect.write(request, seed, count).body

    def _read(
        self, request: Request, data: bytes, count: int, latency_s: float, written: Written | None = None
    ) -> Sequence[Completion]:
        """The completions of a reply. Raises ErrorAnswer where the server reports an error or no choices, ValueError,
        KeyError, TypeError, AttributeError or IndexError where the reply is malformed.
        """
        answer = completion_of_stream(data) if is_stream(data) else loads(data)
        choices = choices_in(answer)
        if len(choices) != count:
            problem = f"gave {len(choices)} of {count} answers asked for in one call"
            if count > 1 and not self._answered_at:
                raise EngineRefused(f"{self.url} {problem}; set samples_per_call=1")
            raise ValueError(problem)
        return completions_of(request, written or self._dialect.write(request, 0, count), answer, latency_s)

    def _note_answer(self, request: Request, completions: Sequence[Completion], reserved: Reserved) -> None:
        self._answered_request, self._losses = request, 0
        self._answered_at = time.monotonic()
        if self.pace.is_limited:
            used = sum(completion.prompt_tokens + completion.completion_tokens for completion in completions)
            self.pace.count(used, reserved.tokens)
        if self.limit < self.settings.concurrency:
            self._answers_since_change += 1
            if self._answers_since_change >= self.limit:
                self.limit += 1
                self._answers_since_change = 0

    async def _judge_refusal(self, refusal: Refusal, count: int) -> Sequence[Completion]:
        """Judge a status that no retry changes: failed answers where it is about this row, EngineRefused where it is
        about every request.
        """
        status, message = refusal.status, refusal.message
        if (status in (403, 404) or 300 <= status < 400) and await self._is_about_one_row(refusal):
            return failed_completions(count, f"refused: {status}: {message}")
        if status in (401, 403):
            raise EngineRefused(f"{self.url} wants a valid key ({status}: {message}); {key_state(self.settings)}")
        if 300 <= status < 400:
            raise EngineRefused(f"{self.url} sends us elsewhere ({status}: {message}); name the address it means")
        if status == 404:
            problem = f"knows no model {self.settings.model!r}, or no {CHAT}"
            raise EngineRefused(f"{self.url} {problem} (404: {message}); expected openai:MODEL@http://HOST:PORT/v1")
        kind = "context_overflow" if refusal.is_overflow else "refused"
        return failed_completions(count, f"{kind}: {status}: {message}")

    async def _is_about_one_row(self, refusal: Refusal) -> bool:
        """Whether a refusal is about this prompt, not about key, model or address: the server says so, or answers
        another request.
        """
        return refusal.is_moderation or self._answered_at > 0 or await self._answers_probe()

    async def _give_up(
        self, status: int, reason: str, message: str, attempts: Attempts, count: int
    ) -> Sequence[Completion]:
        """Fail one row's answers if the server answers other requests, or a probe. Raises EngineError if it does not:
        the engine is gone.
        """
        async with self._probing:
            answers = self._answered_at > attempts.failing_since or await self._is_alive()
        problem = message if status in (0, 200) else f"HTTP {status}: {message}"
        if not answers:
            raise EngineError(
                f"{self.url} does not answer ({problem}) after {attempts}; start it, then run the same command again "
                "to continue"
            )
        self._losses += 1
        return failed_completions(count, f"{reason}: {problem.removeprefix('HTTP ')} ({attempts})")

    async def _answers_probe(self) -> bool:
        """Whether the server answers a probe: the smallest request there is, or one that it has answered before."""
        sampling = Sampling(temperature=None, top_p=None, max_tokens=PROBE_TOKENS)
        hello = Request(role="", messages=(Message(role="user", content=HELLO),), sampling=sampling)
        bodies = [{name: value for name, value in self._dialect.write(hello, 0, 1).body.items() if name != "seed"}]
        if self._answered_request:
            bodies.append(self._dialect.write(self._answered_request, 0, 1).body)
        for body in bodies:
            if await self._responds_to(orjson.dumps(body)):
                self._answered_at = time.monotonic()
                return True
        return False

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

    async def _responds_to(self, body: bytes) -> bool:
        """Whether the server answers a request, or refuses it in a way that shows that it runs."""
        status, answered, _ = await self._try(body)
        return answered or status in (400, 422, *BUSY)

    async def _answers(self, body: bytes) -> bool:
        """Whether the server answers a request; while it is too busy to say, it is asked again."""
        for attempt in range(1, PROBE_TRIES + 1):
            status, answered, headers = await self._try(body)
            if status not in BUSY or await self._stopped_within(pause_s(attempt, wait_s(headers)), "too busy"):
                return answered
        return False

    async def _try(self, body: bytes) -> tuple[int, bool, Headers]:
        """(status, whether there was an answer, headers) of one request, sent once."""
        assert self._transport is not None
        try:
            posting = self._transport.post(body)
            status, data, headers = await asyncio.wait_for(posting, min(PROBE_S, self.settings.timeout_s))
            if status != 200:
                return status, False, headers
            return status, bool(choices_in(completion_of_stream(data) if is_stream(data) else loads(data))), headers
        except (TimeoutError, ValueError, KeyError, TypeError, AttributeError, ErrorAnswer):
            return 0, False, NO_HEADERS

    @property
    def _hidden(self) -> list[str]:
        """What no message may repeat."""
        return [value.removeprefix("Bearer ") for value in self._secrets.values()]

    def _slow_down(self, reserved: Reserved) -> None:
        if reserved.paced:
            self.pace.slow_down()
        now = time.monotonic()
        if now - self._slowed_at > 1:  # replies already under way report the same overload
            self.limit = max(1, self.limit // 2)
            self._slowed_at, self._answers_since_change = now, 0


def failed_completions(count: int, error: str) -> list[Completion]:
    """`count` failed answers. error: reason, colon, detail."""
    return [Completion(text="", finish_reason="error", error=error)] * count
