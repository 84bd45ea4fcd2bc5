"""How a request is written for one server, and what its refusals teach of that without changing what is asked.

What is None in the settings is not written. Options win over everything that we write; None there removes a field.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import orjson

from synthmill.schemas.calls import Request
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.tasks.engines import scored_answers
from synthmill.tasks.engines.open_turns import opened_by
from synthmill.tasks.engines.refusals import FORM_WORDS, TOOL_WORDS, Refusal
from synthmill.tasks.engines.served import OPENAI, server_url
from synthmill.tasks.engines.structures import (
    LADDER,
    PLAIN,
    PORTABLE,
    STRICT,
    answer_schema,
    structure_of,
    structured_fields,
    with_schema_told,
)
from synthmill.tasks.engines.wire_messages import chat_messages

LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
FORM_FIELDS = {
    "json_schema": ("response_format",),
    "json_object": ("response_format",),
    "tool": ("tools", "tool_choice"),
}
LOGPROBS = ("logprobs", "top_logprobs")
UNKNOWN = ("supported", "unknown", "unrecognized", "unexpected", "not allowed", "not permitted", "deprecated", "extra")
"""Words of a refusal of a field itself, not of its value."""
SUSPECTS = ("top_p", "seed", *LOGPROBS, "stop", "temperature", *LENGTH_FIELDS, "n", "stream_options")
"""Our own optional fields, in the order in which they are left out to see which one a server refuses."""
OFF_WAYS: tuple[dict[str, Any], ...] = (
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"reasoning_effort": "none"},
    {"reasoning_effort": "minimal"},
)
"""How thinking is turned off: by the chat template (vLLM, SGLang), or by the least effort that a server knows."""
AZURE = ".openai.azure.com"


class Written(NamedTuple):
    """A request as it is sent. structure, schema: how the answer's form is asked for, where it has one; form: how the
    schema is written.
    """

    body: dict[str, Any]
    structure: Structure | None = None
    schema: dict[str, Any] | None = None
    form: int = PLAIN


class Writer(Protocol):
    """How requests are written for one server. ladder: the ways in which it may be asked for a form, the strictest
    first; structure: the one that is taken. version: rises with everything that is learned.
    """

    ladder: tuple[Structure, ...]
    structure: Structure
    version: int

    def write(self, request: Request, seed: int, count: int) -> Written:
        """The request as a body."""

    def suspects(self, written: Written, refusal: Refusal) -> list[tuple[str, ...]]:
        """The fields of a request that a refusal may be about, one by one, then together; none where it names none."""

    def adapt(self, written: Written, groups: list[tuple[str, ...]], refusal: Refusal) -> bool:
        """Write the same question otherwise from now on, where that can be; False where nothing is left to try."""


class Dialect:
    """What one OpenAI-compatible server takes."""

    ladder = LADDER

    def __init__(self, settings: EngineSettings) -> None:
        url = server_url(settings)
        is_openai = url.startswith(OPENAI)
        is_strict = is_openai or (urlsplit(url).hostname or "").endswith(AZURE)
        self.model = settings.model
        self.structure = structure_of(settings)
        self.length_field = LENGTH_FIELDS[is_openai]
        self.version = 0
        self._thinking = settings.thinking
        self._off_way = 1 if is_strict else 0
        self._form = STRICT if is_strict else PLAIN
        self._forms: dict[bytes, int] = {}
        self._length_learned = False
        self._stream: dict[str, Any] = (
            {"stream": True, "stream_options": {"include_usage": True}} if settings.stream else {}
        )
        self._options = {name: value for name, value in settings.options.items() if value is not None}
        self._removed = [name for name, value in settings.options.items() if value is None]
        if any(name in settings.options for name in LENGTH_FIELDS):  # said under one name, not also under the other
            self._removed += [name for name in LENGTH_FIELDS if name not in self._options]

    def write(self, request: Request, seed: int, count: int) -> Written:
        """The request as a body."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": chat_messages(request.messages),
            "seed": seed,
        }
        if sampling.temperature is not None:
            body["temperature"] = sampling.temperature
        if sampling.top_p is not None:
            body["top_p"] = sampling.top_p
        if sampling.max_tokens is not None:
            body[self.length_field] = sampling.max_tokens + (self._thinking.tokens or 0)
        if count > 1:
            body["n"] = count
        if sampling.stop:
            body["stop"] = sampling.stop
        if sampling.logprobs:
            body["logprobs"], body["top_logprobs"] = True, sampling.logprobs
        if request.tools:
            body["tools"] = request.tools
        if self._thinking.mode == "off":
            body |= OFF_WAYS[self._off_way]
        elif self._thinking.effort:
            body["reasoning_effort"] = self._thinking.effort
        if request.scored:
            body |= scored_answers.FIELDS | {
                "messages": scored_answers.scored_messages(body["messages"], request.scored)
            }
        else:
            body |= self._stream
        written = self._with_form(body, request) if request.choice or request.schema_ else Written(body)
        if self._options:
            body |= self._options
        for name in self._removed:
            body.pop(name, None)
        return written

    def _with_form(self, body: dict[str, Any], request: Request) -> Written:
        schema = answer_schema(request)
        assert schema is not None
        form = self._forms.get(schema_id(schema), self._form) if self._forms else self._form
        body |= structured_fields(self.structure, schema, form)
        if self.structure in ("json_object", "none"):
            body["messages"] = with_schema_told(body["messages"], schema)
            form = PLAIN
        return Written(body, self.structure, schema, form)

    def suspects(self, written: Written, refusal: Refusal) -> list[tuple[str, ...]]:
        """The fields of a request that a refusal may be about, one by one, then together; none where it names none."""
        ours = [name for name in SUSPECTS if name in written.body]
        thinking = [name for name in dict.fromkeys(name for way in OFF_WAYS for name in way) if name in written.body]
        return suspects_in(written, refusal, [*ours, *thinking, *self._options], FORM_FIELDS)

    def adapt(self, written: Written, groups: list[tuple[str, ...]], refusal: Refusal) -> bool:
        """Write the same question otherwise from now on, where that can be; False where nothing is left to try."""
        named = {name for group in groups for name in group}
        adapted = (
            self._adapt_length(named, refusal.message.lower())
            or self._adapt_off_way(named)
            or self._adapt_stream(named)
            or self._adapt_form(written, named)
        )
        self.version += adapted
        return adapted

    def _adapt_length(self, named: set[str], message: str) -> bool:
        """Write the length under its other name, once; a server that only minds its value would not know the other."""
        other = LENGTH_FIELDS[1 - LENGTH_FIELDS.index(self.length_field)]
        is_about_name = other in message or any(word in message for word in UNKNOWN)
        if self.length_field not in named or not is_about_name or self._length_learned:
            return False
        self._length_learned, self.length_field = True, other
        return self.length_field not in self._options

    def _adapt_off_way(self, named: set[str]) -> bool:
        if self._thinking.mode != "off" or not named & OFF_WAYS[self._off_way].keys():
            return False
        if self._off_way + 1 == len(OFF_WAYS):
            return False
        self._off_way += 1
        return True

    def _adapt_stream(self, named: set[str]) -> bool:
        return "stream_options" in named and self._stream.pop("stream_options", None) is not None

    def _adapt_form(self, written: Written, named: set[str]) -> bool:
        fields = FORM_FIELDS.get(written.structure or "none", ())
        if not written.schema or not named & set(fields) or written.structure == "json_object":
            return False
        if written.form >= PORTABLE or "response_format" in self._options:
            return False
        self._forms[schema_id(written.schema)] = written.form + 1
        return True


class TextDialect(Dialect):
    """How the same server takes a text to continue: no messages, and nothing that only a chat has."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._user_turn, self._stream, self.length_field = settings.user_turn, {}, LENGTH_FIELDS[0]

    def write(self, request: Request, seed: int, count: int) -> Written:
        body = super().write(request, seed, count).body
        of_chats = {"messages", *LOGPROBS, *(name for way in OFF_WAYS for name in way)}
        kept = {name: value for name, value in body.items() if name not in of_chats}
        return Written({**kept, "prompt": opened_by(self._user_turn, request.messages)})


def suspects_in(
    written: Written, refusal: Refusal, fields: Iterable[str], form_fields: Mapping[str, tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """The fields that a refusal may be about. form_fields: what asks for an answer's form, by structure."""
    names = refusal.fields_named(list(dict.fromkeys(fields)))
    groups: list[tuple[str, ...]] = [LOGPROBS if name in LOGPROBS else (name,) for name in names]
    of_form = tuple(name for name in form_fields.get(written.structure or "none", ()) if name in written.body)
    words = TOOL_WORDS if written.structure == "tool" else FORM_WORDS
    if of_form and refusal.is_about_form((*words, *of_form, "schema")):
        groups.append(of_form)
    groups = list(dict.fromkeys(groups))
    return [*groups, tuple(name for group in groups for name in group)] if len(groups) > 1 else groups


def schema_id(schema: Mapping[str, Any]) -> bytes:
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
