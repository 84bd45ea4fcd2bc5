"""Requests to a model, and its completions.

A `Request` names a *role*, never a model: the run's settings map roles to engines. Its identity is what the model
sees (messages, sampling, output form) and `sample`, which numbers equal requests.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from synthmill.schemas.texts import loads

ENGINE_FAULTS = ("engine_timeout", "engine_error", "no_choices")
"""Reasons that may lie with the engine, not with the row: the next run asks again, once, for answers lost to them."""

ChatRole = Literal["system", "user", "assistant", "tool"]


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Frozen):
    role: ChatRole
    content: str


class Sampling(Frozen):
    """How an answer is drawn. `seed` is the run's seed; the seed sent is derived from it and the request's key."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1, le=1 << 31)
    stop: tuple[str, ...] = ()
    logprobs: int = Field(0, ge=0, le=20, description="alternatives per token to return; 0 for none")
    seed: int = Field(0, ge=0, lt=1 << 63, description="the run's seed")


class Request(Frozen):
    """One question to one role.

    schema_: a JSON schema the answer must satisfy. choice: the answer is one of these strings. optional: when this
    request fails, the recipe receives a Completion with `error` set; without it the row is dropped. asked_again: an
    earlier answer to it was refused, which the bill shows; no key covers it.
    """

    role: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    schema_: Mapping[str, Any] | None = None
    choice: tuple[str, ...] | None = None
    sample: int = 0
    optional: bool = False
    asked_again: bool = False

    def sampled(self, count: int) -> list["Request"]:
        """The same request `count` times, numbered from 0: `count` answers to one prompt. Messages are shared."""
        return [self.model_copy(update={"sample": n}) for n in range(count)]

    def question_json(self) -> bytes:
        """The question as canonical JSON, which identifies it: messages, sampling, schema and choice."""
        return orjson.dumps(
            {
                "messages": [[message.role, message.content] for message in self.messages],
                "sampling": self.sampling.__dict__,
                "schema": self.schema_,
                "choice": self.choice,
            },
            option=orjson.OPT_SORT_KEYS,
        )


class Completion(NamedTuple):
    """One answer; a tuple, because millions are made. Tokens are counted by the engine, all that was read and written,
    cached ones and thinking included (schemas/usage.py); latency is wall-clock seconds as the engine saw it.

    finish_reason: as the engine reports it (schemas/endings.py), or "error" (`error` says why, `text` is empty).
    logprobs: per token [token, logprob, {alternative: logprob}], when asked for. reasoning: what the model thought
    before, apart from `text`. refusal: the model's own words, where it refused in a field of its own. tool_calls: as
    the server sent them. usage: as the server reported it, on the first of answers that were asked
    together. estimated: the server reported no tokens, and they were counted here.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    logprobs: list[Any] | None = None
    error: str | None = None
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[Any] | None = None
    usage: Mapping[str, Any] | None = None
    estimated: bool = False

    @property
    def lost(self) -> bool:
        """Whether a failing engine lost this answer, so that another run may get it."""
        return self.error is not None and self.error.startswith(ENGINE_FAULTS)


def unwrap_choice(request: Request, text: str) -> str:
    """Unwrap a choice that an engine gave as JSON; any other text stays as it is, for the recipe to judge."""
    if not request.choice:
        return text
    try:
        return str(loads(text)["choice"])
    except (ValueError, KeyError, TypeError):
        return text.strip()


def ask_hash(question: bytes) -> bytes:
    """The 16-byte hash of a question, from `Request.question_json`."""
    return blake2b(question, digest_size=16).digest()


def call_key(engine: str, ask: bytes, sample: int) -> bytes:
    """The 16-byte key under which one answer is stored. ask: the question's hash; sample: the number of the request."""
    return blake2b(b"%b %b %d" % (ask, engine.encode(), sample), digest_size=16).digest()


def wire_seed(key: bytes) -> int:
    """The seed sent to the engine: 31 bits of the key, which covers the run's seed."""
    return int.from_bytes(key[:4], "big") >> 1
