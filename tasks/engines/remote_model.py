"""A model behind a network: it is asked until it answers, refuses for good, or is gone.

What an engine adds: how a request is written, sent and read. `ChatServer` has these rules in words of its own.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.attempts import TIMEOUT_RETRIES
from synthmill.tasks.engines.chat_server import PROBE_S, failed_completions
from synthmill.tasks.engines.refusals import MODERATION, OVERFLOW
from synthmill.tasks.engines.replies import ErrorAnswer
from synthmill.tasks.engines.transport import NO_ANSWER, Reply
from synthmill.tasks.engines.waits import backoff, pause_s, wait_s

BUSY = (429, 503, 529)
PASSING = (0, 200, 408, 409, 425)
"""Statuses after which the same request may be answered, besides 5xx; 200 is an answer that could not be read."""
UNPAID = ("credit balance", "billing", "payment", "insufficient_quota")
DRAWING = (
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "thinking",
    "output_config",
    "tool_choice",
    "cache_control",
)
"""Fields that a server may refuse for every request; options can leave them out."""


class RemoteModel(ABC):
    """One model behind one address. The window (`limit`) halves while the server is too busy, and answers grow it."""

    samples_per_call = 1

    def __init__(self, settings: EngineSettings, name: str, url: str, key: str | None) -> None:
        self.settings, self.name, self.url = settings, name, url
        self.limit = settings.concurrency
        self._key = key
        self._stopping = asyncio.Event()
        self._slowed_at = self._answered_at = 0.0
        self._answers_since_change = 0
        self._probing = asyncio.Lock()
        self._answered_request: Request | None = None

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def body_of(self, request: Request, seed: int) -> dict[str, Any]:
        """What is sent for one answer."""

    @abstractmethod
    def hello(self) -> dict[str, Any]:
        """The smallest request there is, to find out whether the server answers."""

    @abstractmethod
    async def send(self, body: Mapping[str, Any]) -> Reply:
        """(status, answer or error, seconds to wait before the next attempt, where the server says so)."""

    @abstractmethod
    def read(self, request: Request, data: bytes, latency_s: float) -> Completion:
        """The answer in a reply. Raises ErrorAnswer where it holds an error or no answer, ValueError, KeyError,
        TypeError, AttributeError or IndexError where it is malformed.
        """

    @abstractmethod
    def error_in(self, status: int, data: bytes) -> tuple[int, str]:
        """The status that an error means, and its message."""

    def answered_before(self, request: Request) -> None:
        self._answered_request = self._answered_request or request

    def stop(self) -> None:
        """Make no further attempts: a request between two attempts fails now, an answer on the wire is received."""
        self._stopping.set()

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        """`count` answers, each by a request of its own, in their order."""
        if request.sampling.logprobs:
            raise EngineRefused(
                f"{self.name} gives no log probabilities, and {request.role} is asked for them; name another engine "
                f"for {request.role}, or a method that reads verdicts from the text"
            )
        return await asyncio.gather(*(self._answer(request, seed + number) for number in range(count)))

    async def _answer(self, request: Request, seed: int) -> Completion:
        body = self.body_of(request, seed)
        started = time.monotonic()
        failing_since = 0.0
        waits = attempts = timeouts = 0
        while True:
            status, data, headers = await self.send(body)
            told_s = wait_s(headers)
            reason = "engine_error" if status else "engine_timeout"
            if status == 200:
                try:
                    completion = self.read(request, data, time.monotonic() - started)
                    self._count_answer(request)
                    return completion
                except ErrorAnswer as error:
                    status, reason, message = error.status, error.reason, self._text_of(*self.error_in(200, data))
                except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                    message = f"the answer has another form ({type(error).__name__}: {error}): {data[:120]!r}"
            else:
                status, message = self.error_in(status, data)
                message = self._text_of(status, message)
            failing_since = failing_since or time.monotonic()
            if status in BUSY:
                self._slow_down()
                waits += 1
                pause = pause_s(waits, told_s)
                exhausted = waits > self.settings.retries * 4
            elif status in PASSING or 500 <= status < 600:
                attempts += 1
                timeouts += status == 0 and data.startswith(NO_ANSWER)
                pause = max(told_s or 0.0, backoff(attempts))
                exhausted = attempts > self.settings.retries or timeouts > TIMEOUT_RETRIES
            else:
                return await self._judge_refusal(status, message, body)
            if exhausted:
                tries = f"{attempts + waits} attempts in {time.monotonic() - failing_since:.0f} s"
                return await self._give_up(status, reason, message, tries, failing_since)
            if await self._stopped_within(pause):
                return failed("engine_error: the run was stopped")

    async def _stopped_within(self, seconds: float) -> bool:
        """Sleep between two attempts; True as soon as the run is stopped."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _judge_refusal(self, status: int, message: str, body: Mapping[str, Any]) -> Completion:
        """Judge what no retry changes: a failed answer where it is about this row, EngineRefused where it is about
        every request.
        """
        low = message.lower()
        if status == 402 or (status in (400, 403) and any(sign in low for sign in UNPAID)):
            raise EngineRefused(
                f"{self.url} wants to be paid ({status}: {message}); then run the same command again to continue"
            )
        if status == 401:
            raise self._wants_key(status, message)
        if status in (403, 404) or 300 <= status < 400:
            moderated = any(sign in low for sign in MODERATION)
            if moderated or self._answered_at > 0 or await self._answers_probe():
                return failed(f"refused: {status}: {message}")
            if status == 404:
                raise EngineRefused(
                    f"{self.url} knows no model {self.settings.model!r} (404: {message}); correct the name in "
                    f"{self.settings.spec}"
                )
            raise self._wants_key(status, message)
        if status == 400 and not self._answered_at and (field := refused_field(low, body)):
            raise EngineRefused(
                f"{self.url} refuses {field} for {self.settings.model} (400: {message}); leave it out with "
                f"options={{{field}: null}} beside the engine"
            )
        overflow = status == 413 or any(sign in low for sign in OVERFLOW)
        return failed(f"{'context_overflow' if overflow else 'refused'}: {status}: {message}")

    def _wants_key(self, status: int, message: str) -> EngineRefused:
        key_state = "was refused" if self._key else "is not set"
        key = f"the environment variable {self.settings.api_key_env} {key_state}"
        return EngineRefused(f"{self.url} wants a valid key ({status}: {message}); {key}")

    async def _give_up(self, status: int, reason: str, message: str, tries: str, failing_since: float) -> Completion:
        """Fail one answer if the server gives others, or answers a probe; raises EngineError if it does not."""
        async with self._probing:
            answers = self._answered_at > failing_since or await self._answers_probe()
        problem = message if status in (0, 200) else f"HTTP {status}: {message}"
        if not answers:
            raise EngineError(f"{self.url} does not answer ({problem}) after {tries}; run the same command again later")
        return failed(f"{reason}: {problem.removeprefix('HTTP ')} ({tries})")

    async def _answers_probe(self) -> bool:
        """Whether the server answers the smallest request, or one that it has answered before."""
        bodies = [self.hello()]
        if self._answered_request:
            bodies.append(self.body_of(self._answered_request, 0))
        for body in bodies:
            try:
                sending = self.send(body)
                status, data, _ = await asyncio.wait_for(sending, min(PROBE_S, self.settings.timeout_s))
            except TimeoutError:
                continue
            if status != 200:
                status, _ = self.error_in(status, data)
            if status in (200, 400, 422, *BUSY):
                self._answered_at = self._answered_at or (time.monotonic() if status == 200 else 0.0)
                return True
        return False

    def _text_of(self, status: int, message: str) -> str:
        """An error's message on one line, without our key."""
        if self._key:
            message = message.replace(self._key, "***")
        return " ".join(message.split())[:300]

    def _count_answer(self, request: Request) -> None:
        self._answered_request, self._answered_at = request, time.monotonic()
        if self.limit < self.settings.concurrency:
            self._answers_since_change += 1
            if self._answers_since_change >= self.limit:
                self.limit += 1
                self._answers_since_change = 0

    def _slow_down(self) -> None:
        now = time.monotonic()
        if now - self._slowed_at > 1:  # replies already under way report the same overload
            self.limit = max(1, self.limit // 2)
            self._slowed_at, self._answers_since_change = now, 0


def model_name(settings: EngineSettings) -> str:
    """The model's identity: its name with its provider, and what is asked of all its answers."""
    asked = settings.options | ({"thinking": thinking} if (thinking := settings.thinking.identity()) else {})
    return f"{settings.kind}:{settings.model}" + (f"+{content_hash(asked)[:8]}" if asked else "")


def failed(error: str) -> Completion:
    """A failed answer. error: reason, colon, detail."""
    return failed_completions(1, error)[0]


def refused_field(message: str, body: Mapping[str, Any]) -> str:
    """The field of a request that an error names, in lower case; empty where it names none that was sent."""
    return next((field for field in DRAWING if field in body and field in message), "")
