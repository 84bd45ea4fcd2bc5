"""Environments that run for real: Python classes that answer in a model's place.

    class Shell:
        @staticmethod
        def draw(seed: int, task: str) -> str: ...     # facts that only the environment knows, as text
        def __init__(self, facts: str) -> None: ...    # one object per dialogue
        def act(self, action: str, tool: str, arguments: dict) -> str | Observation: ...

A world is asked like a model: its replies go to the call store, so that a dialogue can be resumed and replayed without
it. It must reply the same to the same facts and actions, because after a crash the actions are played again. It runs in
this process, in a thread of its own, with all rights of the process: name only files that you trust.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import digest, file_checksum
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.engine import failed_completion
from synthmill.tasks.python_files import read_python_file

T = TypeVar("T")
MOST_WORLDS = 256
"""Dialogues whose world stays in memory between two turns; older ones are played again."""


class Observation(NamedTuple):
    """What the agent gets to see. over: the world has ended the dialogue."""

    text: str
    over: bool = False


class World(Protocol):
    """One dialogue's environment. `tool` and `arguments` are empty for an action that is plain text."""

    def __init__(self, facts: str) -> None: ...

    def act(self, action: str, tool: str, arguments: Mapping[str, Any]) -> "str | Observation": ...

    @staticmethod
    def draw(seed: int, task: str) -> str:
        """The facts of a new dialogue about `task`, as text that the constructor and a model can read."""


@cache
def load_world(file: str, name: str) -> type[World]:
    """The class `name` (CLASS or FILE.py:CLASS@HASH) of a Python file. Raises InputError when it cannot be loaded."""
    kind, _, fingerprint = name.rpartition(":")[2].partition("@")
    if fingerprint and file_checksum(Path(file))[: len(fingerprint)] != fingerprint:
        raise InputError(f"{file} has changed since this run was planned; run the same command again")
    try:
        world: type[World] = getattr(read_python_file(Path(file), beside=False).load(), kind)
    except (InputError, AttributeError) as error:
        fault = error.message if isinstance(error, InputError) else f"AttributeError: {error}"
        raise InputError(f"the world {kind} of {file} cannot be loaded: {fault}") from error
    if missing := [method for method in ("draw", "act") if not callable(getattr(world, method, None))]:
        raise InputError(
            f"the world {kind} of {file} has no {missing[0]}(); expected draw(seed, task) and act(action, ...)"
        )
    return world


def world_request(world: str, facts: str, actions: Sequence[tuple[str, ...]]) -> tuple[Message, ...]:
    """The messages that ask a world. actions: (text, tool, arguments as JSON), all of the dialogue so far."""
    system = [Message(role="system", content=orjson.dumps({"world": world, "facts": facts}).decode())]
    return (*system, *(Message(role="user", content=orjson.dumps(list(action)).decode()) for action in actions))


class Worlds:
    """The engine of the role `world`. options: {FILE.py:CLASS@HASH: file}; a request names its world."""

    name, samples_per_call = "worlds", 1

    def __init__(self, settings: EngineSettings) -> None:
        self.files = settings.options
        self.limit = settings.concurrency
        self.timeout_s = settings.timeout_s
        self._living: OrderedDict[bytes, World] = OrderedDict()

    async def open(self) -> None: ...

    def answered_before(self, request: Request) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None:
        self._living.clear()

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        started, loop = time.monotonic(), asyncio.get_running_loop()
        arrival: asyncio.Future[Observation | Fault] = loop.create_future()

        def deliver(reply: Observation | Fault) -> None:
            if not arrival.done():
                arrival.set_result(reply)

        def finish(reply: Observation | Fault) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(deliver, reply)

        run_in_thread(lambda: self._answer(request.messages), finish)
        try:
            reply = await asyncio.wait_for(arrival, self.timeout_s)
        except TimeoutError:
            return [failed_completion(f"engine_timeout: the world gave no reply in {self.timeout_s:g} s")] * count
        if isinstance(reply, Fault):
            if reply.stops:
                raise InputError(reply.message)
            return [failed_completion(f"world_error: {reply.message}")] * count
        latency_s, reason = round(time.monotonic() - started, 4), "over" if reply.over else "stop"
        return [Completion(text=reply.text, finish_reason=reason, latency_s=latency_s)] * count

    def _answer(self, messages: tuple[Message, ...]) -> Observation:
        """The reply to the last action; the earlier ones are played again, unless their world is still alive."""
        question = orjson.loads(messages[0].content)
        actions = [message.content for message in messages]
        world = self._living.pop(digest(actions[:-1]), None)
        unplayed = actions[1:] if world is None else actions[-1:]
        if world is None:
            world = load_world(self.files[question["world"]], question["world"])(question["facts"])
        for action in unplayed:
            text, tool, arguments = orjson.loads(action)
            returned = world.act(text, tool, orjson.loads(arguments) if arguments else {})
        self._living[digest(actions)] = world
        if len(self._living) > MOST_WORLDS:
            self._living.popitem(last=False)
        reply = returned if isinstance(returned, tuple) else (returned, False)
        if [type(value) for value in reply] != [str, bool] or not encodable(reply[0]):
            raise TypeError(f"act returned {returned!r:.60}; expected text, or (text, whether it is over)")
        return Observation(*reply)


class Fault(NamedTuple):
    """What went wrong in a world's code. stops: every row would fail, so the run ends."""

    message: str
    stops: bool = False


def run_in_thread(call: Callable[[], T], done: Callable[[T | Fault], None]) -> None:
    """Run a world's code, and call `done` with its result or its Fault.

    Not in a pool's thread: a world that hangs must hold up neither its neighbours nor the process's end.
    """

    def run() -> None:
        try:
            outcome: T | Fault = call()
        except InputError as error:
            outcome = Fault(error.message, stops=True)
        except BaseException as error:
            outcome = Fault(f"{type(error).__name__}: {error}")
        done(outcome)

    threading.Thread(target=run, name="world", daemon=True).start()


def draw_facts(world: type[World], seed: int, task: str, timeout_s: float) -> str:
    """Let a world draw the facts of a new dialogue. Raises Drop when it draws none."""
    arrivals: SimpleQueue[str | Fault] = SimpleQueue()
    run_in_thread(lambda: world.draw(seed, task), arrivals.put)
    try:
        facts = arrivals.get(timeout=timeout_s)
    except Empty:
        raise Drop(f"world_error: draw: no facts in {timeout_s:g} s") from None
    if isinstance(facts, Fault):
        raise Drop(f"world_error: draw: {facts.message}")
    if not isinstance(facts, str) or not facts.strip() or not encodable(facts):
        raise Drop(f"world_error: draw returned {facts!r:.40}; expected text")
    return facts


def encodable(text: str) -> bool:
    """Whether a text can be written at all; a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
