"""A model behind a network: it is asked until it answers, refuses for good, or is gone.

What an engine adds: how a request is written (a dialect), sent and read.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.attempts import BUSY, Attempts
from synthmill.tasks.engines.blame import HELLO, PROBE_TOKENS, Blame
from synthmill.tasks.engines.dialect import Writer, Written
from synthmill.tasks.engines.pace import Pace
from synthmill.tasks.engines.refusals import MALFORMED, ErrorAnswer, Refusal, read_refusal
from synthmill.tasks.engines.served import key_state, server_url
from synthmill.tasks.engines.transport import NO_HEADERS, Headers, Reply
from synthmill.tasks.engines.waits import Waits, pause_s, wait_s

PROBE_S = 60.0
PROBE_TRIES = 3


class Reserved(NamedTuple):
    """What the pace took up for an attempt."""

    paced: bool = False
    tokens: float = 0.0


UNPACED = Reserved()


class RemoteModel(ABC):
    """One model behind one address. The window (`limit`) halves on 429, 503 and 529, and answers grow it back.

    Beside an EngineLearned, `learned` holds the settings that a refusal taught.
    """

    def __init__(self, settings: EngineSettings, name: str, dialect: Writer) -> None:
        self.settings, self.name, self.url = settings, name, server_url(settings)
        self.limit = settings.concurrency
        self.samples_per_call = settings.samples_per_call
        self.waits = Waits()
        self.pace = Pace()
        self._dialect = dialect
        self._blame = Blame(settings, dialect, self._answers)
        self._secrets: dict[str, str] = {}
        self._stopping = asyncio.Event()
        self._slowed_at = self._answered_at = 0.0
        self._answered_request: Request | None = None
        self._losses = 0  # since the last answer
        self._probing = asyncio.Lock()
        self._answers_since_change = 0

    @abstractmethod
    async def open(self) -> None:
        """Raises InputError where a header's variable is not set, EngineRefused without a key."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def send(self, body: bytes) -> Reply:
        """Send one request, once; never an exception."""

    @abstractmethod
    def read(self, request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
        """The answers in a reply. Raises ErrorAnswer where it holds an error or none, what MALFORMED names where it is
        malformed.
        """

    @abstractmethod
    def holds_answer(self, data: bytes) -> bool:
        """Whether a reply holds an answer; raises as `read`."""

    def refusal_in(self, status: int, data: bytes) -> Refusal:
        """The error in a reply."""
        return read_refusal(status, data, self._hidden)

    @property
    def learned(self) -> dict[str, Any]:
        return self._blame.learned

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        written, version = self._dialect.write(request, seed, count), self._dialect.version
        body = orjson.dumps(written.body)
        started = time.monotonic()
        attempts = Attempts(self.settings.retries)
        while True:
            reserved = await self._turn() if self.pace.is_limited else UNPACED
            status, data, headers = await self.send(body)
            if headers:
                self.pace.learn(headers)
            reason = "engine_error" if status else "engine_timeout"
            if status == 200:
                try:
                    completions = self.read(request, written, data, count, time.monotonic() - started)
                    self._note_answer(request, completions, reserved)
                    return completions
                except ErrorAnswer as error:
                    status, reason = error.status, error.reason
                except MALFORMED as error:
                    fault = f"the answer is no chat completion ({type(error).__name__}: {error}): {data[:120]!r}"
                    data = " ".join(fault.split()).encode()
            refusal = self.refusal_in(status, data)
            status = refusal.status
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
            raise EngineRefused(
                f"{self.url} knows no model {self.settings.model!r}, or no such address (404: {message}); expected "
                f"{self.settings.kind}:MODEL, or {self.settings.kind}:MODEL@http://HOST:PORT/v1"
            )
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
        """Whether the server answers anything."""
        return await self._answers_probe()

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
        try:
            sending = self.send(body)
            status, data, headers = await asyncio.wait_for(sending, min(PROBE_S, self.settings.timeout_s))
            if status != 200:
                return self.refusal_in(status, data).status, False, headers
            return status, self.holds_answer(data), headers
        except (TimeoutError, *MALFORMED, ErrorAnswer):
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


class SingleAnswers(RemoteModel):
    """A provider that gives one answer to a request, and no log probabilities."""

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        """`count` answers, each by a request of its own, in their order."""
        if request.sampling.logprobs:
            raise EngineRefused(
                f"{self.name} gives no log probabilities, and {request.role} is asked for them; name another engine "
                f"for {request.role}, or a method that reads verdicts from the text"
            )
        asking = (super(SingleAnswers, self).complete(request, seed + number, 1) for number in range(count))
        return [completion for [completion] in await asyncio.gather(*asking)]


def failed_completions(count: int, error: str) -> list[Completion]:
    """`count` failed answers. error: reason, colon, detail."""
    return [Completion(text="", finish_reason="error", error=error)] * count
