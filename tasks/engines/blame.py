"""Finding out which field of a request a server refuses: it says so, or answers a short request without that field.

A refusal names a field, and a short request with the same fields is refused, too: then it is about the engine, not
about one row. Where the dialect knows another way to write the same, that is taken; otherwise the run stops with the
setting that leaves the field out, or, where settings allow it, the engine learns to leave it out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import EngineLearned, EngineRefused
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.schemas.texts import object_in
from synthmill.tasks.engines.dialect import LENGTH_FIELDS, OFF_WAYS, Writer, Written
from synthmill.tasks.engines.refusals import Refusal
from synthmill.tasks.engines.served import server_url
from synthmill.tasks.engines.structures import AUTO

HELLO = "Hello"
PROBE_TOKENS = 16
DROPPABLE = {"top_p", "temperature", "seed", "stop", "stop_sequences", *LENGTH_FIELDS}
FORM = {"response_format", "tools", "tool_choice", "output_config"}
THINKING = {
    *(name for way in OFF_WAYS for name in way),
    *("thinking", "output_config", "thinking_config", "additionalModelRequestFields"),
}


class Blame:
    """Judges refusals of requests, one at a time. learned: settings that one of them taught."""

    def __init__(self, settings: EngineSettings, dialect: Writer, answers: Callable[[bytes], Awaitable[bool]]) -> None:
        """answers: whether the server answers a body."""
        self.settings, self.dialect, self.learned = settings, dialect, dict[str, Any]()
        self._answers = answers
        self._lock = asyncio.Lock()
        self._accepted: set[bytes] = set()
        self._verdict: EngineRefused | None = None
        self._calls_the_tool = False

    def look_at_form(self, written: Written, completions: Sequence[Completion]) -> None:
        """Look whether a server that was found to take a forced function call makes it, until one comes. Raises
        EngineLearned where it answers in words of its own: it ignores tools without a word.
        """
        if written.structure != "tool" or self._calls_the_tool or self.settings.structure != f"{AUTO}:tool":
            return
        for completion in completions:
            if object_in(completion.text) is not None:
                self._calls_the_tool = True
            elif completion.text.strip() and ending_of(completion.finish_reason) == "stop":
                raise self._weaker_form(f"{server_url(self.settings)} takes tools, and calls none")

    async def says_again(self, request: Request, written: Written, version: int, refusal: Refusal) -> bool:
        """Whether to write the request again and send it; otherwise the refusal is about this row. version: of the
        dialect when it was written. Raises EngineRefused, or EngineLearned, where it is about every request.
        """
        if refusal.is_overflow or refusal.is_moderation:
            return False
        groups = self.dialect.suspects(written, refusal)
        if not groups:
            return self.dialect.version != version
        async with self._lock:
            if self._verdict:
                raise type(self._verdict)(self._verdict.message)
            if self.dialect.version != version:
                return True
            probe = self._probe(request, written.body, groups)
            if await self._is_accepted(probe):
                return False
            if self.dialect.adapt(written, groups, refusal):
                return True
            for group in groups:
                if await self._answers(orjson.dumps({name: probe[name] for name in probe if name not in group})):
                    self._verdict = self._verdict_on(group, refusal, bool(written.schema))
                    raise self._verdict
        return False

    def _probe(self, request: Request, body: dict[str, Any], groups: list[tuple[str, ...]]) -> dict[str, Any]:
        """The body of a short request with the same fields as a body."""
        named = {name for group in groups for name in group}
        hello = request.model_copy(update={"messages": (Message(role="user", content=HELLO),)})
        probe = self.dialect.write(hello, body.get("seed", 0) if "seed" in named else 0, body.get("n", 1)).body
        for name in LENGTH_FIELDS:
            if name in probe and not named & set(LENGTH_FIELDS):
                probe[name] = min(PROBE_TOKENS + (self.settings.thinking.tokens or 0), probe[name])
        return probe

    async def _is_accepted(self, probe: dict[str, Any]) -> bool:
        body = orjson.dumps(probe)
        if body not in self._accepted and await self._answers(body):
            self._accepted.add(body)
        return body in self._accepted

    def _verdict_on(self, group: tuple[str, ...], refusal: Refusal, has_form: bool) -> EngineRefused:
        """The error for fields without which the server answers. has_form: whether an answer's form was asked for."""
        fields = set(group)
        what = f"{server_url(self.settings)} refuses {' and '.join(group)} ({refusal.status}: {refusal.message})"
        if fields & self.settings.options.keys():
            return EngineRefused(f"{what}; it stands in engines.ROLE.options: change it there, or leave it out")
        if has_form and fields <= FORM:
            return self._verdict_on_form(what)
        if fields <= THINKING:
            return EngineRefused(
                f"{what}; set engines.ROLE.thinking=keep, or say in options what turns thinking off here"
            )
        if fields == {"n"}:
            return EngineRefused(f"{what}; set engines.ROLE.samples_per_call=1")
        nulls = ", ".join(f"{name}: null" for name in group)
        if self.settings.auto_drop and fields <= DROPPABLE:
            self.learned = {"options": dict.fromkeys(group)}
            return EngineLearned(f"{what}; left out from now on, as engines.ROLE.options={{{nulls}}} would do it")
        flags = " ".join(f"--engine-option {name}=null" for name in group)
        automatic = " or let auto_drop do it (--auto-drop)" if fields <= DROPPABLE else ""
        return EngineRefused(
            f"{what}; leave {'them' if len(group) > 1 else 'it'} out with engines.ROLE.options={{{nulls}}} (on the "
            f"command line {flags}){',' * bool(automatic)}{automatic}, then run the same command again to continue"
        )

    def _verdict_on_form(self, what: str) -> EngineRefused:
        if self.settings.structure.startswith(AUTO) and self._weaker:
            return self._weaker_form(what)
        choices = " or ".join(self._weaker)
        return EngineRefused(f"{what}; set engines.ROLE.structure to {choices} (--engine-option structure=none)")

    def _weaker_form(self, what: str) -> EngineLearned:
        """Learn to ask for forms in the next weaker way."""
        weaker = self._weaker[0]
        self.learned = {"structure": f"{AUTO}:{weaker}"}
        return EngineLearned(f"{what}; forms of answers are asked for as engines.ROLE.structure={weaker} from now on")

    @property
    def _weaker(self) -> tuple[Structure, ...]:
        ladder = self.dialect.ladder
        return ladder[ladder.index(self.dialect.structure) + 1 :]
