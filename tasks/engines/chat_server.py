"""Any OpenAI-compatible server: retries, back-off, structured answers, and errors that help."""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Request, unwrap_choice
from synthmill.schemas.errors import Drop, EngineError, EngineRefused
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.messages import text_in
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import loads
from synthmill.schemas.usage import Tokens, reported_tokens
from synthmill.tasks.engines.served import OPENAI, model_cards, server_url
from synthmill.tasks.engines.token_estimates import with_estimates, written_texts
from synthmill.tasks.engines.transport import NO_ANSWER, Transport, make_transport

BACKOFF_S, MOST_BACKOFF_S = 0.5, 60.0
OVERFLOW = (
    "context length",
    "context_length",
    "context size",
    "context window",
    "maximum context",
    "too long",
    "max_model_len",
)


MODERATION = ("flagged", "moderation", "content policy", "content_policy", "content filter", "content_filter", "safety")
TIMEOUT_RETRIES = 2  # a request that times out three times, while others are answered, would do so again
PROBE_S, PROBE_TOKENS = 60.0, 16
LOSSES_BELIEVED = 4
HELLO = "Hello"


class ErrorAnswer(Exception):
    """A reply with status 200 that holds an error or no answer. status: the error's own, else 200."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


class ChatServer:
    """One model behind one server. The window (`limit`) halves on 429, 503 and 529, and answers grow it back."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.name = f"openai:{settings.model}" + (f"@{settings.revision}" if settings.revision else "")
        if settings.options:
            self.name += f"+{content_hash(settings.options)[:8]}"
        self.limit = settings.concurrency
        self.samples_per_call = settings.samples_per_call
        self.url = server_url(settings)
        self._transport: Transport | None = None
        self._stopping = asyncio.Event()
        self._fixed_fields = {"model": settings.model, **{k: v for k, v in settings.options.items() if v is not None}}
        self._key = os.environ.get(settings.api_key_env)
        self._length_field = "max_completion_tokens" if self.url.startswith(OPENAI) else "max_tokens"
        self._slowed_at = self._answered_at = 0.0
        self._answered_request: Request | None = None
        self._losses = 0  # since the last answer
        self._probing = asyncio.Lock()
        self._answers_since_change = 0

    async def open(self) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._transport = make_transport(self.url + "/chat/completions", headers, self.settings.timeout_s)

    async def close(self) -> None:
        if self._transport:
            await self._transport.close()
            self._transport = None

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        body = orjson.dumps(self._body(request, seed, count))
        assert self._transport is not None
        started = time.monotonic()
        failing_since = 0.0
        waits = attempts = timeouts = 0
        while True:
            status, data, retry_after = await self._transport.post(body)
            reason = "engine_error" if status else "engine_timeout"
            if status == 200:
                try:
                    completions = self._read(request, data, count, time.monotonic() - started)
                    self._answered_request, self._losses = request, 0
                    return completions
                except ErrorAnswer as error:
                    status, reason = error.status, error.reason
                except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                    fault = f"the answer is no chat completion ({type(error).__name__}: {error}): {data[:120]!r}"
                    data = " ".join(fault.split()).encode()
            failing_since = failing_since or time.monotonic()
            if status in (429, 503, 529):
                self._slow_down()
                waits += 1
                pause = (
                    backoff(waits) if retry_after is None else retry_after * random.uniform(1, 1.25) + BACKOFF_S / 10
                )
                exhausted = waits > self.settings.retries * 4
            elif status in (0, 200, 408, 409, 425) or 500 <= status < 600:
                attempts += 1
                timeouts += status == 0 and data.startswith(NO_ANSWER)
                pause = max(retry_after or 0.0, backoff(attempts))
                exhausted = attempts > self.settings.retries or timeouts > TIMEOUT_RETRIES
            else:
                return await self._judge_refusal(status, data, count)
            if exhausted:
                tries = f"{attempts + waits} attempts in {time.monotonic() - failing_since:.0f} s"
                return await self._give_up(status, reason, self._error_text(data), tries, count, failing_since)
            if await self._stopped_within(pause):
                return failed_completions(count, "engine_error: the run was stopped")

    def answered_before(self, request: Request) -> None:
        self._answered_request = self._answered_request or request

    def stop(self) -> None:
        """Make no further attempts: a request between two attempts fails now, an answer on the wire is received."""
        self._stopping.set()

    async def _stopped_within(self, seconds: float) -> bool:
        """Sleep between two attempts; True as soon as the run is stopped."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _body(self, request: Request, seed: int, count: int) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._length_field: sampling.max_tokens,
            "seed": seed,
            **self._fixed_fields,
        }
        if count > 1:
            body["n"] = count
        if sampling.stop:
            body["stop"] = sampling.stop
        if sampling.logprobs:
            body["logprobs"], body["top_logprobs"] = True, sampling.logprobs
        if schema := answer_schema(request):
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        return body

    def _read(self, request: Request, data: bytes, count: int, latency_s: float) -> Sequence[Completion]:
        """The completions of a reply. Raises ErrorAnswer where the server reports an error or no choices, ValueError,
        KeyError, TypeError, AttributeError or IndexError where the reply is malformed.
        """
        answer = loads(data)
        choices = answer.get("choices")
        if not choices and (error := answer.get("error")):
            code = error.get("code") if isinstance(error, dict) else None
            raise ErrorAnswer("engine_error", code if isinstance(code, int) and 400 <= code < 600 else 200)
        if not choices:
            raise ErrorAnswer("no_choices", 200)
        if len(choices) != count:
            problem = f"gave {len(choices)} of {count} answers asked for in one call"
            if count > 1 and not self._answered_at:
                raise EngineRefused(f"{self.url} {problem}; set samples_per_call=1")
            raise ValueError(problem)
        usage = answer.get("usage") or {}
        tokens = reported_tokens(usage) or Tokens()
        completions = [
            Completion(
                text=unwrap_choice(request, text_of(choice["message"].get("content"))),
                reasoning=reasoning_of(choice["message"]),
                refusal=str(choice["message"].get("refusal") or ""),
                tool_calls=choice["message"].get("tool_calls") or None,
                usage=usage if index == 0 else None,
                finish_reason=finish if isinstance(finish := choice.get("finish_reason"), str) else "stop",
                prompt_tokens=tokens.prompt_tokens if index == 0 else 0,
                completion_tokens=share(tokens.completion_tokens, count, index),
                latency_s=round(latency_s, 4),
                logprobs=token_logprobs(choice) if request.sampling.logprobs else None,
            )
            for index, choice in enumerate(choices)
        ]
        self._answered_at = time.monotonic()
        self._speed_up()
        reported = tokens.prompt_tokens and (tokens.completion_tokens or not any(written_texts(completions[0])))
        return completions if reported else with_estimates(request.messages, completions)

    async def _judge_refusal(self, status: int, data: bytes, count: int) -> Sequence[Completion]:
        """Judge a status that no retry changes: failed answers where it is about this row, EngineRefused where it is
        about every request.
        """
        message = self._error_text(data)
        if (status in (403, 404) or 300 <= status < 400) and await self._is_about_one_row(message):
            return failed_completions(count, f"refused: {status}: {message}")
        if status in (401, 403):
            key_state = "was refused" if self._key else "is not set"
            key = f"the environment variable {self.settings.api_key_env} {key_state}"
            raise EngineRefused(f"{self.url} wants a valid key ({status}: {message}); {key}")
        if status == 402:
            raise EngineRefused(
                f"{self.url} wants to be paid (402: {message}); then run the same command again to continue"
            )
        if 300 <= status < 400:
            raise EngineRefused(f"{self.url} sends us elsewhere ({status}: {message}); name the address it means")
        if status == 404:
            problem = f"knows no model {self.settings.model!r}, or no /chat/completions"
            raise EngineRefused(f"{self.url} {problem} (404: {message}); expected openai:MODEL@http://HOST:PORT/v1")
        overflow = any(sign in message.lower() for sign in OVERFLOW)
        return failed_completions(count, f"{'context_overflow' if overflow else 'refused'}: {status}: {message}")

    async def _is_about_one_row(self, message: str) -> bool:
        """Whether a refusal is about this prompt, not about key, model or address: the server says so, or answers
        another request.
        """
        moderated = any(sign in message.lower() for sign in MODERATION)
        return moderated or self._answered_at > 0 or await self._answers_probe()

    async def _give_up(
        self, status: int, reason: str, message: str, tries: str, count: int, failing_since: float
    ) -> Sequence[Completion]:
        """Fail one row's answers if the server answers other requests, or a probe. Raises EngineError if it does not:
        the engine is gone.
        """
        async with self._probing:
            answers = self._answered_at > failing_since or await self._is_alive()
        problem = message if status in (0, 200) else f"HTTP {status}: {message}"
        if not answers:
            raise EngineError(
                f"{self.url} does not answer ({problem}) after {tries}; start it, then run the same command again to "
                "continue"
            )
        self._losses += 1
        return failed_completions(count, f"{reason}: {problem.removeprefix('HTTP ')} ({tries})")

    async def _answers_probe(self) -> bool:
        """Whether the server answers a probe: the smallest request there is, or one that it has answered before."""
        hello: dict[str, Any] = {"messages": [{"role": "user", "content": HELLO}], self._length_field: PROBE_TOKENS}
        bodies = [{**hello, **self._fixed_fields}]
        if self._answered_request:
            bodies.append(self._body(self._answered_request, 0, 1))
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
        assert self._transport is not None
        try:
            posting = self._transport.post(body)
            status, data, _ = await asyncio.wait_for(posting, min(PROBE_S, self.settings.timeout_s))
            return status in (400, 422, 429, 503, 529) or (status == 200 and bool(loads(data)["choices"]))
        except (TimeoutError, ValueError, KeyError, TypeError):
            return False

    def _error_text(self, data: bytes) -> str:
        """The server's error message, one line, without our key."""
        try:
            error = loads(data)
            error = error.get("error", error)
            message = str(error.get("message", error) if isinstance(error, dict) else error)
            if isinstance(error, dict) and (reasons := (error.get("metadata") or {}).get("reasons")):
                message += f" (flagged: {', '.join(map(str, reasons))})"
        except (ValueError, AttributeError, TypeError):
            message = data.decode(errors="replace")
        if self._key:
            message = message.replace(self._key, "***")
        return " ".join(message.split())[:300]

    def _slow_down(self) -> None:
        now = time.monotonic()
        if now - self._slowed_at > 1:  # replies already under way report the same overload
            self.limit = max(1, self.limit // 2)
            self._slowed_at, self._answers_since_change = now, 0

    def _speed_up(self) -> None:
        if self.limit < self.settings.concurrency:
            self._answers_since_change += 1
            if self._answers_since_change >= self.limit:
                self.limit += 1
                self._answers_since_change = 0


def failed_completions(count: int, error: str) -> list[Completion]:
    """`count` failed answers. error: reason, colon, detail."""
    return [Completion(text="", finish_reason="error", error=error)] * count


def answer_schema(request: Request) -> dict[str, Any] | None:
    """The JSON schema to ask for; a choice becomes an object with one enumerated field, which every server supports."""
    if request.choice:
        return {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(request.choice)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
    return dict(request.schema_) if request.schema_ else None


def text_of(content: Any) -> str:
    """A message's text; some servers send it as a list of parts, or null. Raises ValueError for anything else."""
    try:
        return text_in(content) or ""
    except Drop as drop:
        raise ValueError(drop.message) from drop


def reasoning_of(message: Mapping[str, Any]) -> str:
    """What a message says of the thinking before it: in `reasoning_content` (DeepSeek, SGLang, earlier vLLM), in
    `reasoning` (vLLM, OpenRouter), or as the texts of `reasoning_details`.
    """
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := message.get(name), str) and text.strip():
            return text
    details = message.get("reasoning_details")
    parts = details if isinstance(details, list) else []
    texts = [part.get("text") or part.get("summary") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def token_logprobs(choice: dict[str, Any]) -> list[Any]:
    """[token, logprob, {alternative: logprob}] per token; a logprob that is null or missing is left out, or None."""

    def logprobs_by_token(alternatives: Any) -> dict[str, float]:
        return {token["token"]: token["logprob"] for token in alternatives or () if token.get("logprob") is not None}

    tokens = (choice.get("logprobs") or {}).get("content") or []
    return [[token["token"], token.get("logprob"), logprobs_by_token(token.get("top_logprobs"))] for token in tokens]


def share(total: int, parts: int, index: int) -> int:
    """One choice's even share of a sum that a server reports for all choices; the shares add up to it."""
    return total // parts + (index < total % parts)


def backoff(attempt: int) -> float:
    return min(MOST_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)
