"""Any OpenAI-compatible server: retries, slowing down when told to, structured answers, and errors that help."""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as Get
from urllib.request import urlopen

import orjson

from schemas.calls import Completion, Request
from schemas.errors import EngineError, EngineRefused, InputError
from schemas.hashing import content_hash
from schemas.settings import EngineSettings, carries_secret, check_address
from tasks.engines.transport import Transport, make_transport

OPENAI = "https://api.openai.com/v1"
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


class ChatServer:
    """One model behind one server. The window (`limit`) halves on 429 and 503 and grows back by and by."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.name = f"openai:{settings.model}"
        if settings.options:
            self.name += f"+{content_hash(settings.options)[:8]}"
        self.limit = settings.concurrency
        self.samples_per_call = settings.samples_per_call
        self.url = server_url(settings)
        self._transport: Transport | None = None
        self._stopping = asyncio.Event()
        self._plain = {"model": settings.model, **{k: v for k, v in settings.options.items() if v is not None}}
        self._key = os.environ.get(settings.api_key_env)
        self._length_field = "max_completion_tokens" if self.url.startswith(OPENAI) else "max_tokens"
        self._slowed_at = self._answered_at = 0.0
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
        waits = attempts = 0
        while True:
            status, data, retry_after = await self._transport.post(body)
            if status == 200:
                try:
                    return self._read(request, data, count, time.monotonic() - started)
                except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                    said = f"the answer is no chat completion ({type(error).__name__}: {error}): {data[:120]!r}"
                    status, data = 0, " ".join(said.split()).encode()
            failing_since = failing_since or time.monotonic()
            if status in (429, 503, 529):
                self._slow_down()
                waits += 1
                pause = (
                    backoff(waits) if retry_after is None else retry_after * random.uniform(1, 1.25) + BACKOFF_S / 10
                )
                exhausted = waits > self.settings.retries * 4
            elif status in (0, 408, 409, 425) or 500 <= status < 600:
                attempts += 1
                pause = max(retry_after or 0.0, backoff(attempts))
                exhausted = attempts > self.settings.retries
            else:
                return self._refused(status, data, count)
            if exhausted:
                return self._gave_up(status, data, count, failing_since)
            if await self._stopped_within(pause):
                return [Completion(text="", finish_reason="error", error="engine_error: the run was stopped")] * count

    def stop(self) -> None:
        """Ask no more: a request between two attempts gives up now, one on the wire is still received."""
        self._stopping.set()

    async def _stopped_within(self, seconds: float) -> bool:
        """Wait, but no longer than the run goes on."""
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
            **self._plain,
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
        """The completions in an answer; raises ValueError and its like when it is none."""
        answer = orjson.loads(data)
        choices = answer["choices"]
        if len(choices) != count:
            what = f"gave {len(choices)} of {count} answers asked for in one call"
            if count > 1:
                raise EngineRefused(f"{self.url} {what}; set samples_per_call=1")
            raise ValueError(what)
        usage = answer.get("usage") or {}
        tokens = [whole_number(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
        completions = [
            Completion(
                text=chosen(request, text_of(choice["message"].get("content"))),
                finish_reason=finish if isinstance(finish := choice.get("finish_reason"), str) else "stop",
                prompt_tokens=tokens[0] if index == 0 else 0,
                completion_tokens=share(tokens[1], count, index),
                latency_s=round(latency_s, 4),
                logprobs=token_logprobs(choice) if request.sampling.logprobs else None,
            )
            for index, choice in enumerate(choices)
        ]
        self._answered_at = time.monotonic()
        self._speed_up()
        return completions

    def _refused(self, status: int, data: bytes, count: int) -> Sequence[Completion]:
        said = self._said(data)
        if status in (401, 403):
            has = "was refused" if self._key else "is not set"
            key = f"the environment variable {self.settings.api_key_env} {has}"
            raise EngineRefused(f"{self.url} wants a valid key ({status}: {said}); {key}")
        if status == 402:
            raise EngineRefused(
                f"{self.url} wants to be paid (402: {said}); then run the same command again to continue"
            )
        if 300 <= status < 400:
            raise EngineRefused(f"{self.url} sends us elsewhere ({status}: {said}); name the address it means")
        if status == 404:
            what = f"knows no model {self.settings.model!r}, or no /chat/completions"
            raise EngineRefused(f"{self.url} {what} (404: {said}); expected openai:MODEL@http://HOST:PORT/v1")
        overflow = any(words in said.lower() for words in OVERFLOW)
        reason = f"{'context_overflow' if overflow else 'refused'}: {status}: {said}"
        return [Completion(text="", finish_reason="error", error=reason)] * count

    def _gave_up(self, status: int, data: bytes, count: int, failing_since: float) -> Sequence[Completion]:
        """A request that fails while others succeed is that row's fault; if nothing succeeds, the engine is gone."""
        said = self._said(data)
        tries = f"{self.settings.retries + 1} attempts in {time.monotonic() - failing_since:.0f} s"
        if self._answered_at > failing_since:
            reason = f"{'engine_timeout' if status == 0 else 'engine_error'}: {status or 'no answer'}: {said} ({tries})"
            return [Completion(text="", finish_reason="error", error=reason)] * count
        what = f"HTTP {status}: {said}" if status else said
        raise EngineError(
            f"{self.url} does not answer ({what}) after {tries}; start it, then run the same command again to continue"
        )

    def _said(self, data: bytes) -> str:
        """The server's own words, one line, without our key."""
        try:
            error = orjson.loads(data)
            error = error.get("error", error)
            said = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError):
            said = data.decode(errors="replace")
        if self._key:
            said = said.replace(self._key, "***")
        return " ".join(said.split())[:300]

    def _slow_down(self) -> None:
        now = time.monotonic()
        if now - self._slowed_at > 1:  # answers already under way say the same thing again
            self.limit = max(1, self.limit // 2)
            self._slowed_at, self._answers_since_change = now, 0

    def _speed_up(self) -> None:
        if self.limit < self.settings.concurrency:
            self._answers_since_change += 1
            if self._answers_since_change >= self.limit:
                self.limit += 1
                self._answers_since_change = 0


def server_url(settings: EngineSettings) -> str:
    """Where the server is. Raises InputError for an address that carries a secret, wherever it comes from."""
    url = (settings.base_url or os.environ.get(settings.base_url_env) or OPENAI).rstrip("/")
    check_address(url)
    if carries_secret(url):
        raise InputError(f"the address in {settings.base_url_env} carries a secret; put it in {settings.api_key_env}")
    return url


def served_models(settings: EngineSettings) -> list[str] | None:
    """Ask a server which models it serves; None when it does not say. Raises EngineError when it is not there."""
    url = server_url(settings) + "/models"
    key = os.environ.get(settings.api_key_env)
    try:
        with urlopen(Get(url, headers={"Authorization": f"Bearer {key}"} if key else {}), timeout=10) as response:
            return [str(model["id"]) for model in orjson.loads(response.read())["data"]]
    except HTTPError as error:
        if error.code in (401, 403):
            has = "was refused" if key else "is not set"
            said = f"{url} wants a valid key ({error.code}); the environment variable {settings.api_key_env} {has}"
            raise EngineRefused(said) from None
        return None
    except (ValueError, KeyError, TypeError):
        return None
    except (URLError, OSError) as error:
        raise EngineError(
            f"{url} does not answer ({error}); start the server, or correct the address: openai:MODEL@http://HOST:PORT/v1"
        ) from error


def only_model(settings: EngineSettings) -> str:
    """The one model that a server serves; raises InputError when it has several."""
    names = served_models(settings) or []
    if len(names) != 1:
        shown = ", ".join(names[:8]) or "none"
        raise InputError(
            f"{server_url(settings)} serves {len(names)} models ({shown}); say which: "
            f"openai:MODEL@{server_url(settings)}"
        )
    return names[0]


def answer_schema(request: Request) -> dict[str, Any] | None:
    """The JSON schema to ask for; a choice becomes an object with one enumerated field, which every server knows."""
    if request.choice:
        return {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(request.choice)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
    return dict(request.schema_) if request.schema_ else None


def chosen(request: Request, text: str) -> str:
    """Unwrap a choice; anything else is passed on as it is, for the recipe to judge."""
    if not request.choice:
        return text
    try:
        return str(orjson.loads(text)["choice"])
    except (ValueError, KeyError, TypeError):
        return text.strip()


def text_of(content: Any) -> str:
    """A message's text; some servers send it as a list of parts, or null. Raises ValueError for anything else."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise ValueError(f"content is {type(content).__name__}, expected text")


def whole_number(value: Any) -> int:
    """A server's count of tokens; 0 for what cannot be one."""
    return value if isinstance(value, int) and 0 <= value < 1 << 40 else 0


def token_logprobs(choice: dict[str, Any]) -> list[Any]:
    """[token, logprob, {alternative: logprob}] per token; a logprob that is null or missing is left out, or None."""

    def known(alternatives: Any) -> dict[str, float]:
        return {one["token"]: one["logprob"] for one in alternatives or () if one.get("logprob") is not None}

    found = (choice.get("logprobs") or {}).get("content") or []
    return [[token["token"], token.get("logprob"), known(token.get("top_logprobs"))] for token in found]


def share(total: int, parts: int, index: int) -> int:
    """An even split of a sum that a server reports for all choices together; the shares add up to it."""
    return total // parts + (index < total % parts)


def backoff(attempt: int) -> float:
    return min(MOST_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)
