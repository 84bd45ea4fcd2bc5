"""Requests to a model, and its completions.

A `Request` names a *role*, never a model: the run's settings map roles to engines. Its identity is what the model
sees (messages, sampling, output form) and `sample`, which numbers equal requests.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from synthmill.schemas.texts import loads, object_in

ENGINE_FAULTS = ("engine_timeout", "engine_error", "no_choices")
"""Reasons that may lie with the engine, not with the row: the next run asks again, once, for answers lost to them."""

ChatRole = Literal["system", "user", "assistant", "tool"]


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Frozen):
    role: ChatRole
    content: str


class ToolMessage(Message):
    """A message that calls tools, or brings what one returned; a request with such messages has `tools`. tool_calls: as
    the server sent them. tool_call_id: the call that a message of role `tool` answers.
    """

    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str = ""


Temperature = Annotated[float, Field(ge=0)] | None
TopP = Annotated[float, Field(gt=0, le=1)] | None
MaxTokens = Annotated[int, Field(ge=1, le=1 << 31)] | None
"""None: not said to the engine, which then has a default of its own."""
PLANNED_TOKENS = 1024
"""What plans count for an answer without max_tokens."""


class Sampling(Frozen):
    """How an answer is drawn. What is None is not sent. `seed` is the run's seed; the seed sent is derived from it and
    the request's key.
    """

    temperature: Temperature = 1.0
    top_p: TopP = 0.9
    max_tokens: MaxTokens = 1024
    stop: tuple[str, ...] = ()
    logprobs: int = Field(0, ge=0, le=20, description="alternatives per token to return; 0 for none")
    seed: int = Field(0, ge=0, lt=1 << 63, description="the run's seed")

    @property
    def planned_tokens(self) -> int:
        """How long an answer may be, for plans and for the sizes of forms."""
        return self.max_tokens or PLANNED_TOKENS


SCORING = Sampling(temperature=0.0, top_p=None, max_tokens=1)
"""Of requests that have an answer scored. Engines draw one token beside it, which nobody reads."""


class Request(Frozen):
    """One question to one role.

    schema_: a JSON schema the answer must satisfy. choice: the answer is one of these strings. tools: definitions in
    OpenAI's form; the answer may call one. scored: an answer whose log probability is asked for; nothing is drawn then,
    and `sampling` is SCORING. open_turn: the last message is not over: the model writes on from its text,
    for instance a user's turn from its beginning. optional: when this request fails, the recipe receives a Completion
    with `error` set; without it the row is dropped. asked_again: an earlier answer to it was refused, which the bill
    shows; no key covers it.
    """

    role: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    schema_: Mapping[str, Any] | None = None
    choice: tuple[str, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    scored: str = ""
    open_turn: bool = False
    sample: int = 0
    optional: bool = False
    asked_again: bool = False

    def sampled(self, count: int) -> list["Request"]:
        """The same request `count` times, numbered from 0: `count` answers to one prompt. Messages are shared."""
        return [self if n == self.sample else self.model_copy(update={"sample": n}) for n in range(count)]

    def question_json(self) -> bytes:
        """The question as canonical JSON, which identifies it: messages, sampling, schema, choice, and tools, a
        scored answer and an open turn where there are any.
        """
        question: dict[str, Any] = {
            "messages": [[message.role, message.content] for message in self.messages],
            "sampling": self.sampling.__dict__,
            "schema": self.schema_,
            "choice": self.choice,
        }
        if self.tools:
            question |= {"messages": identities(self.messages), "tools": self.tools}
        if self.scored:
            question["scored"] = self.scored
        if self.open_turn:
            question["open_turn"] = True
        return orjson.dumps(question, option=orjson.OPT_SORT_KEYS)


def identities(messages: tuple[Message, ...]) -> list[list[Any]]:
    """Messages without what only a server understands: ids of calls, which it draws by chance, become numbers."""
    written: list[list[Any]] = [[message.role, message.content] for message in messages]
    numbers: dict[str, int] = {}
    for fields, message in zip(written, messages, strict=True):
        if not isinstance(message, ToolMessage):
            continue
        if message.tool_calls:
            functions = [call["function"] for call in message.tool_calls]
            fields.append([[function["name"], function["arguments"]] for function in functions])
            for call in message.tool_calls:
                numbers[call["id"]] = len(numbers)
        elif message.tool_call_id:
            fields.append(numbers.get(message.tool_call_id, -1))
    return written


class Completion(NamedTuple):
    """One answer; a tuple, because millions are made. Tokens are counted by the engine, all that was read and written,
    cached ones and thinking included (schemas/usage.py); latency is wall-clock seconds as the engine saw it.

    finish_reason: as the engine reports it (schemas/endings.py), or "error" (`error` says why, `text` is empty).
    logprobs: per token [token, logprob, {alternative: logprob}], when asked for; where an answer was scored, those of
    its tokens, and `text` is empty. reasoning: what the model thought
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
    """Unwrap a choice that an engine gave as JSON, with or without text around it; any other text stays as it is, for
    the recipe to judge.
    """
    if not request.choice:
        return text
    try:
        return str(loads(text)["choice"])
    except (ValueError, KeyError, TypeError):
        wrapped = (object_in(text) or {}).get("choice")
        return wrapped if wrapped in request.choice else text.strip()


def ask_hash(question: bytes) -> bytes:
    """The 16-byte hash of a question, from `Request.question_json`."""
    return blake2b(question, digest_size=16).digest()


def call_key(engine: str, ask: bytes, sample: int) -> bytes:
    """The 16-byte key under which one answer is stored. ask: the question's hash; sample: the number of the request."""
    return blake2b(b"%b %b %d" % (ask, engine.encode(), sample), digest_size=16).digest()


def wire_seed(key: bytes) -> int:
    """The seed sent to the engine: 31 bits of the key, which covers the run's seed."""
    return int.from_bytes(key[:4], "big") >> 1
