"""A recipe: a stage that asks models, written as a generator that does no I/O.

    class Rephrase(Recipe[Instruction, Instruction]):
        name: ClassVar = "rephrase"
        version: ClassVar = "1"
        roles: ClassVar = ("teacher",)
        prompts: ClassVar = {"rephrase/ask": ()}

        def steps(self, row: Instruction) -> Steps[Instruction]:
            messages = load("rephrase/ask").render(row=row)
            [said] = yield [Request(role="teacher", messages=messages, sampling=self.sampling)]
            if not said.text.strip():
                raise Drop("empty_answer")
            return Instruction.child_of(row, self.name, prompt=said.text.strip())

It yields requests, is sent their completions in the same order, and returns a child of the row, or the row itself with
more in it. Several turns are a `for` loop; a test sends completions by hand. When a request fails
for good the driver throws `Drop` in at the `yield`, unless the request is `optional`.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from schemas.calls import Completion, Frozen, Request, Sampling
from schemas.errors import Drop
from schemas.hashing import content_hash
from schemas.rows import Row
from schemas.texts import loads
from tasks.prompts import load

In = TypeVar("In", bound=Row)
Out = TypeVar("Out", bound=Row)
T = TypeVar("T")
Steps = Generator[list[Request], list[Completion], Out]
UNUSABLE = "(An earlier reply to this could not be used: {fault}. Reply again, and mind this.)"
LONGEST_FAULT = 400  # characters
FENCED = re.compile(r"^\s*```\w*\s*(.*?)\s*```\s*$", re.DOTALL)
MOST_ATTEMPTS = 100  # draws that must stay apart (runs, sets, branches) count their samples in steps of this


def ask_until(
    request: Request, attempts: int, parse: Callable[[Completion], T]
) -> Generator[list[Request], list[Completion], T]:
    """Ask until `parse` accepts the answer (it raises Drop for one it does not); the last Drop ends the row. Use it as
    `value = yield from ask_until(...)`.
    """
    [found] = yield from ask_all([request], attempts, lambda _, said: parse(said))
    return found


def ask_all(
    requests: Sequence[Request],
    attempts: int,
    parse: Callable[[int, Completion], T],
    compare: Callable[[Sequence[T | None]], Mapping[int, Drop]] = lambda _: {},
) -> Generator[list[Request], list[Completion], list[T]]:
    """`ask_each`, and the first fault that is left ends the row."""
    found, faults = yield from ask_each(requests, attempts, parse, compare)
    if faults:
        raise faults[min(faults)]
    return [one for one in found if one is not None]


def ask_each(
    requests: Sequence[Request],
    attempts: int,
    parse: Callable[[int, Completion], T],
    compare: Callable[[Sequence[T | None]], Mapping[int, Drop]] = lambda _: {},
) -> Generator[list[Request], list[Completion], tuple[list[T | None], dict[int, Drop]]]:
    """Ask several questions at once, and those again, each with its fault named, whose answer `parse` refuses (it
    raises Drop) or `compare` does (it sees all that was found so far, and returns what is wrong by place).

    Returns what was found, and what is still wrong after `attempts` tries, by place. Each try is another sample,
    counted from the request's.
    """
    found: list[T | None] = [None] * len(requests)
    faults: dict[int, Drop] = {}
    for attempt in range(attempts):
        asked = sorted(faults) if attempt else range(len(requests))
        said = yield [again(requests[n], attempt, faults.get(n)) for n in asked]
        faults = {}
        for n, one in zip(asked, said, strict=True):
            try:
                found[n] = parse(n, one)
            except Drop as drop:
                found[n], faults[n] = None, drop
        faults = {**compare(found), **faults}
        if not faults:
            break
    return found, faults


def again(request: Request, attempt: int, fault: Drop | None) -> Request:
    """The next try: another sample, with what was wrong at the end of the last message."""
    messages = request.messages
    if fault:
        last = messages[-1]
        told = UNUSABLE.format(fault=(fault.detail or fault.reason.replace("_", " "))[:LONGEST_FAULT])
        messages = (*messages[:-1], last.model_copy(update={"content": f"{last.content}\n\n{told}"}))
    return request.model_copy(update={"sample": request.sample + attempt, "messages": messages})


def read_json(said: Completion, reason: str) -> dict[str, Any]:
    """The JSON object of an answer, also one that a server without schemas puts between fences. Raises Drop."""
    if said.finish_reason == "length":
        raise Drop(f"{reason}: it was cut, because it was too long; be shorter")
    fenced = FENCED.match(said.text)
    try:
        found = loads(fenced[1] if fenced else said.text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Drop(f"{reason}: it was no JSON object")
    return found


class Recipe(Frozen, Generic[In, Out]):
    """Settings (the fields) and the steps. Raise `version` when the output changes meaning: it is part of every key."""

    name: ClassVar[str]
    version: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    prompts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Template name -> the variables it is given besides `row`."""
    takes: ClassVar[type[Row]]
    makes: ClassVar[type[Row]]

    sampling: Sampling = Sampling()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Learn `takes` and `makes` from `Recipe[In, Out]`."""
        for ancestor in cls.__mro__:
            arguments = getattr(ancestor, "__pydantic_generic_metadata__", {}).get("args", ())
            if len(arguments) == 2:
                cls.takes, cls.makes = arguments
                return

    def steps(self, row: In) -> Steps[Out]:
        raise TypeError(f"{type(self).__name__} must define steps(row)")

    def needs_roles(self) -> tuple[str, ...]:
        """The roles that these settings ask; no other's engine is loaded, or decides anything."""
        return self.roles

    def requests_per_row(self) -> int:
        """The most requests one row makes: for plans and progress, never for limits."""
        return 1

    def tokens_per_row(self) -> int:
        """The most tokens that are made for one row: for plans, never for limits."""
        return self.requests_per_row() * self.sampling.max_tokens

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Everything that decides what this stage makes of a row; `engines` maps roles to engine names."""
        return {
            "stage": self.name,
            "version": self.version,
            "settings": self.model_dump(mode="json"),
            "prompts": {name: load(name).hash for name in self.prompts},
            "engines": {role: engines[role] for role in self.needs_roles()},
        }

    def key(self, engines: Mapping[str, str]) -> str:
        return content_hash(self.identity(engines))


AnyRecipe = Recipe[Any, Any]
"""For annotations. The alias is made here, where every process makes it first: pickles name it by this module."""
