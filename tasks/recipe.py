"""A recipe: a stage that asks models, written as a generator that does no I/O.

    class Rephrase(Recipe[Instruction, Instruction]):
        name: ClassVar = "rephrase"
        version: ClassVar = "1"
        roles: ClassVar = ("teacher",)
        prompts: ClassVar = {"rephrase/ask": ()}

        def steps(self, row: Instruction) -> Steps[Instruction]:
            messages = load("rephrase/ask").render(row=row)
            [completion] = yield [Request(role="teacher", messages=messages, sampling=self.sampling)]
            check_answered(completion)
            return Instruction.child_of(row, self.name, prompt=completion.text.strip())

It yields requests, is sent their completions in the same order, and returns a child of the row, or the row itself with
more in it. Several turns are a `for` loop; a test sends completions by hand. When a request fails
for good the driver throws `Drop` in at the `yield`, unless the request is `optional`.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from synthmill.schemas.calls import Completion, Frozen, Request, Sampling
from synthmill.schemas.endings import CUT_WHILE_THINKING
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Dropped, Row, arrow_schema, read_rows, thinking_paths, to_arrow
from synthmill.schemas.texts import object_in
from synthmill.tasks.prompts import Prompt, load
from synthmill.tasks.texts.breaches import breach, says_more
from synthmill.tasks.texts.thinking import named_fault

In = TypeVar("In", bound=Row)
Out = TypeVar("Out", bound=Row)
T = TypeVar("T")
Steps = Generator[list[Request], list[Completion], Out]
UNUSABLE = "(An earlier reply to this could not be used: {fault}. Reply again, and mind this.)"
LONGEST_FAULT = 400  # characters
LEAST_ROOM, MOST_ROOM = 1024, 32_768  # tokens, where an answer ended in its thinking and is asked for again
MOST_ATTEMPTS = 100  # runs, sets and branches number their samples in steps of this, so that their draws differ


def ask_until(
    request: Request, attempts: int, parse: Callable[[Completion], T]
) -> Generator[list[Request], list[Completion], T]:
    """Ask until `parse` accepts the answer; it raises Drop to refuse one, and the last Drop ends the row. Use it as
    `value = yield from ask_until(...)`.
    """
    [value] = yield from ask_all([request], attempts, lambda _, completion: parse(completion))
    return value


def ask_all(
    requests: Sequence[Request],
    attempts: int,
    parse: Callable[[int, Completion], T],
    compare: Callable[[Sequence[T | None]], Mapping[int, Drop]] = lambda _: {},
) -> Generator[list[Request], list[Completion], list[T]]:
    """`ask_each`, but the first fault that remains ends the row."""
    values, faults = yield from ask_each(requests, attempts, parse, compare)
    if faults:
        raise faults[min(faults)]
    return [value for value in values if value is not None]


def ask_each(
    requests: Sequence[Request],
    attempts: int,
    parse: Callable[[int, Completion], T],
    compare: Callable[[Sequence[T | None]], Mapping[int, Drop]] = lambda _: {},
) -> Generator[list[Request], list[Completion], tuple[list[T | None], dict[int, Drop]]]:
    """Ask several questions at once; retry those whose answer is refused, with the fault named in the prompt.

    `parse` refuses an answer by raising Drop, and so does a schema with words that engines may ignore. `compare` sees
    all values so far and returns the faults by place. Returns the values, and the faults that remain after `attempts`
    tries, by place. Each try is another sample, counted from the request's. Where there was no answer at all, the fault
    that remains says why.
    """
    values: list[T | None] = [None] * len(requests)
    faults: dict[int, Drop] = {}
    latest: dict[int, Completion] = {}
    for attempt in range(attempts):
        open_places = sorted(faults) if attempt else range(len(requests))
        completions = yield [
            retry_request(requests[place], attempt, faults.get(place), latest.get(place)) for place in open_places
        ]
        faults = {}
        for place, completion in zip(open_places, completions, strict=True):
            latest[place] = completion
            try:
                values[place] = parse(place, completion)
                check_schema(requests[place].schema_, completion)
            except Drop as drop:
                values[place], faults[place] = None, drop
        faults = {**compare(values), **faults}
        if not faults:
            break
    return values, {place: named_fault(latest[place], fault) for place, fault in faults.items()}


def check_schema(schema: Mapping[str, Any] | None, completion: Completion) -> None:
    """Raises Drop for an answer that breaks a part of its schema which engines may ignore. What they enforce, a
    recipe's parser judges.
    """
    if schema is None or completion.error or not says_more(schema):
        return
    if fault := breach(object_in(completion.text), schema):
        raise Drop(f"breaks_schema: {fault}")


def retry_request(request: Request, attempt: int, fault: Drop | None, answer: Completion | None = None) -> Request:
    """The next try: another sample; the last message ends with the fault of the try before. answer: that try's; where
    it ended in its thinking, the next one has more room instead.
    """
    asked_again = request.asked_again or attempt > 0
    again = request.model_copy(update={"sample": request.sample + attempt, "asked_again": asked_again})
    if answer and was_cut_while_thinking(answer):
        return with_more_room(again, attempt)
    return name_fault(again, fault) if fault else again


def name_fault(request: Request, fault: Drop) -> Request:
    """A request whose last message ends with the fault of an earlier answer."""
    *before, last = request.messages
    remark = UNUSABLE.format(fault=(fault.detail or fault.reason.replace("_", " "))[:LONGEST_FAULT])
    content = f"{last.content}\n\n{remark}"
    return request.model_copy(update={"messages": (*before, last.model_copy(update={"content": content}))})


def with_more_room(request: Request, attempt: int) -> Request:
    """A request with twice its `max_tokens`, twice that at the next attempt, and so on, up to a bound."""
    asked = request.sampling.max_tokens
    if asked is None:
        return request
    room = max(asked, min(MOST_ROOM, max(LEAST_ROOM, asked << min(attempt, 16))))
    return request.model_copy(update={"sampling": request.sampling.model_copy(update={"max_tokens": room})})


def was_cut_while_thinking(completion: Completion) -> bool:
    return completion.finish_reason == CUT_WHILE_THINKING


def read_json(completion: Completion, reason: str) -> dict[str, Any]:
    """The JSON object of an answer, with or without code fences or words around it. Raises Drop."""
    if completion.finish_reason == "length":
        raise Drop(f"{reason}: it was cut, because it was too long; be shorter")
    answer = object_in(completion.text)
    if answer is None:
        raise Drop(f"{reason}: it was no JSON object")
    return answer


class Recipe(Frozen, Generic[In, Out]):
    """Settings (the fields) and the steps. Raise `version` when the output changes meaning: it is part of every key."""

    name: ClassVar[str]
    """What a step of a pipeline calls it: a word in snake_case."""
    version: ClassVar[str]
    """Of what it makes."""
    roles: ClassVar[tuple[str, ...]]
    """Whom it may ask."""
    prompts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Template name -> its variables besides `row`."""
    adds_own_columns: ClassVar[bool] = False
    """Whether its new columns are the user's own, and go on with the rows through later stages."""
    keeps_columns: ClassVar[bool] = False
    """Whether its rows are those it read, with more in them: all their columns stay."""

    @property
    def infers_columns(self) -> bool:
        """Whether a part has columns that another may lack; the parts are brought to the same columns then."""
        return bool(thinking_paths(self.makes))

    takes: ClassVar[type[Row]]
    makes: ClassVar[type[Row]]

    sampling: Sampling = Sampling()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Learn `takes` and `makes` from `Recipe[In, Out]`."""
        for ancestor in cls.__mro__:
            arguments = getattr(ancestor, "__pydantic_generic_metadata__", {}).get("args", ())
            if len(arguments) == 2 and "takes" not in vars(cls):
                cls.takes, cls.makes = arguments
                return

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        """The columns of the rows that it makes of rows with `columns`."""
        return arrow_schema(self.makes)

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError where it cannot work on rows with these columns."""

    def read(self, table: pa.Table) -> tuple[list[In], list[Dropped]]:
        """A part's rows, and those that are none of the kind it takes."""
        return read_rows(self.takes, table)

    def to_table(self, rows: Sequence[Out]) -> pa.Table:
        """The rows that it made, as a table."""
        return to_arrow(self.makes, rows)

    def steps(self, row: In) -> Steps[Out]:
        """Yields lists of requests, is sent their completions in the same order, and returns the row that was made.
        Raises Drop for a row that cannot be made.
        """
        raise TypeError(f"{type(self).__name__} must define steps(row)")

    def template(self, name: str) -> Prompt:
        """One of its prompts."""
        return load(name)

    def needs_roles(self) -> tuple[str, ...]:
        """The roles that these settings ask; engines of other roles are not loaded, and are in no key."""
        return self.roles

    def requests_per_row(self) -> int:
        """The most requests one row makes: for plans and progress, never for limits."""
        return 1

    def tokens_per_row(self) -> int:
        """The most tokens that one row generates: for plans, never for limits."""
        return self.requests_per_row() * self.sampling.planned_tokens

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Everything that decides what this stage makes of a row. engines: role -> engine name."""
        return {
            "stage": self.name,
            "version": self.version,
            "settings": self.model_dump(mode="json"),
            "prompts": {name: self.template(name).hash for name in self.prompts},
            "engines": {role: engines[role] for role in self.needs_roles()},
        }

    def key(self, engines: Mapping[str, str]) -> str:
        return content_hash(self.identity(engines))


AnyRecipe = Recipe[Any, Any]
"""For annotations. The alias is made here, where every process makes it first: pickles name it by this module."""
