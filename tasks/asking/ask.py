"""A prompt of one's own, between the columns that it reads and those that it fills."""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
from pydantic import AliasChoices, Field, model_validator

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import Dropped, TableRow
from synthmill.storage.artifacts import CALLS
from synthmill.tasks.asking.answer_checks import FieldCheck
from synthmill.tasks.asking.own_prompts import TEXT, AnswerFields, OwnPrompt, PromptText, Question, check_system
from synthmill.tasks.asking.templates import expected
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, retry_request
from synthmill.tasks.texts.thinking import named_fault, thinking_column

DEFAULT_PROMPT = "{{ prompt }}"
KEYS = ("id", "parent_id", CALLS)
MOST_SAMPLES = 1024
DRAWS_PER_ROW = 720_720
"""More than MOST_SAMPLES x MOST_ATTEMPTS, and a multiple of all numbers up to 16, so that samples that are asked
together (`samples_per_call`) begin with a row's first.
"""
PREPARED_AT_ONCE = 64


class Ask(Recipe[TableRow, TableRow]):
    """Rows -> the same with what a prompt of your own makes of each: a text, or fields; of several prompts a column
    each.

    A later one of several `prompts` reads an earlier one's answer under its name, and its columns are the names of the
    prompts: texts, and structs of fields. `samples` > 1 make each column a list; samples that failed are left out, and
    the row is dropped if all did. Equal prompts have one answer; unless `shared`, each row draws its own, by its id,
    if the temperature is not 0.

    Drops, after `attempts` tries that each name the fault: empty_answer, cut_answer, bad_answer, failed_check; before
    anything is asked: null_column, bad_prompt, empty_prompt.
    """

    name: ClassVar = "ask"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    adds_own_columns: ClassVar = True
    keeps_columns: ClassVar = True

    prompt: PromptText = Field(DEFAULT_PROMPT, description="the template's text, or the path of a .jinja file")
    system: PromptText | None = Field(None, description="the template of a system message")
    role: str = Field("teacher", min_length=1)
    answer: AnswerFields = Field(None, description="new columns as a JSON schema, in short; none: one text")
    check: dict[str, FieldCheck] = Field(default_factory=dict, description=f"by field; a text is called {TEXT!r}")
    own_prompts: dict[str, OwnPrompt] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("prompts", "own_prompts"),
        description="several prompts instead of one, in this order; in a pipeline: `prompts`",
    )
    keep: tuple[str, ...] = Field((), description="the prompts whose answers become columns; default: all")
    column: str = Field("", description="the column of a text; filled in: the step's id")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    samples: int = Field(1, ge=1, le=MOST_SAMPLES)
    shared: bool = Field(True, description="whether equal prompts share an answer; filled in: not where rows are made")

    @model_validator(mode="after")
    def fits_together(self) -> "Ask":
        if self.own_prompts and (self.prompt != DEFAULT_PROMPT or self.answer or self.check):
            raise ValueError("prompts: there is a `prompt`, `answer` or `check` beside them; write it into one of them")
        for name in self.keep:
            if name not in self.own_prompts:
                raise ValueError(f"keep: there is no prompt {name!r}; {expected(name, self.own_prompts)}")
        names = [field.name for field in self.new_columns()]
        if reserved := next((name for name in (*names, *self.own_prompts) if name in (*KEYS, "row")), ""):
            raise ValueError(f"{reserved!r} is a name that every row has already; choose another")
        return self

    def asked(self) -> dict[str, OwnPrompt]:
        """The prompts by name, in order; a single one has the column's. Raises ValueError."""
        if not self.own_prompts:
            fields = {name: getattr(self, name) for name in ("prompt", "system", "role", "answer", "check")}
            return {self.column or TEXT: OwnPrompt(**fields)}
        own_prompts = {}
        for name, own in self.own_prompts.items():
            system = self.system if own.system is None else own.system
            own_prompts[name] = own.model_copy(update={"role": own.role or self.role, "system": system})
            check_system(own.prompt, system)
        return own_prompts

    def needs_roles(self) -> tuple[str, ...]:
        roles = [own.role or self.role for own in self.own_prompts.values()]
        return tuple(dict.fromkeys(roles or [self.role]))

    def requests_per_row(self) -> int:
        return max(1, len(self.own_prompts)) * self.samples * self.attempts

    def tokens_per_row(self) -> int:
        tokens = [own.max_tokens or self.sampling.planned_tokens for own in self.asked().values()]
        return sum(tokens) * self.samples * self.attempts

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """With the order of its prompts, and without the column's name where no column is called so. prompts: `ask/`
        and what each makes -> its hash.
        """
        identity = super().identity(engines)
        settings = identity["settings"]
        settings["own_prompts"] = [[name, own] for name, own in settings["own_prompts"].items()]
        if self.own_prompts or self.answer:
            settings.pop("column")
        own_prompts = self.asked()
        names = list(own_prompts) if self.own_prompts else ["+".join(field.name for field in self.new_columns())]
        hashes = {f"{self.name}/{name}": own.hash for name, own in zip(names, own_prompts.values(), strict=True)}
        return {**identity, "prompts": hashes}

    def new_columns(self) -> list[pa.Field]:
        """The columns that it fills."""
        return prepared(self).columns

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        return pa.schema([pa.field("id", pa.string()), pa.field("parent_id", pa.string()), *self.new_columns()])

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError for a variable that none of the columns has, with the nearest, and for a new column whose
        name is taken.
        """
        for name in dict.fromkeys([*(field.name for field in self.new_columns()), *self.own_prompts]):
            if name in columns.names:
                raise InputError(
                    f"{self.name}: the rows have a column {name!r} already, which an answer would fill; call the "
                    "answer's field, prompt or step something else"
                )
        for question in prepared(self).questions:
            step = f"the prompt {question.name!r}" if self.own_prompts else self.name
            question.check_columns(columns, step)
            columns = columns.append(pa.field(question.name, question.type)) if self.own_prompts else columns

    def read(self, table: pa.Table) -> tuple[list[TableRow], list[Dropped]]:
        """Rows with the columns that the templates and expressions read, and no others."""
        self.check_columns(table.schema)
        reads = [names for question in prepared(self).questions for names in question.all_names]
        names = set().union(*(name.columns for name in reads))
        whole = any(name.whole_row for name in reads)
        used = [name for name in table.column_names if name != CALLS and (whole or name in names)]
        ids = table["id"].to_pylist()
        parents = table["parent_id"].to_pylist() if "parent_id" in table.column_names else [""] * len(ids)
        cells = zip(*(table[name].to_pylist() for name in used), strict=True) if used else [()] * len(ids)
        rows = zip(ids, parents, cells, strict=True)
        return [
            TableRow(id=row_id, parent_id=parent or "", values=dict(zip(used, values, strict=True)))
            for row_id, parent, values in rows
        ], []

    def to_table(self, rows: Sequence[TableRow]) -> pa.Table:
        thinking = [field for field in self.thinking_columns() if any(field.name in row.values for row in rows)]
        schema = pa.schema([*self.output_columns(pa.schema([])), *thinking])
        columns: list[list[Any]] = [[row.id for row in rows], [row.parent_id for row in rows]]
        columns += [[row.values.get(name) for row in rows] for name in schema.names[2:]]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        return pa.table(arrays, schema=schema)

    def steps(self, row: TableRow) -> Steps[TableRow]:
        samples = {place: dict(row.values) for place in range(self.samples)}
        thoughts: dict[int, dict[str, str]] = {place: {} for place in range(self.samples)}
        faults: dict[int, Drop] = {}
        for question in prepared(self).questions:
            first = 0 if self.shared or question.is_greedy else first_draw(row.id)
            requests, faults = question.requests(samples, first)
            if not requests:
                raise faults[min(faults)]
            read = partial(read_sample, question, samples)
            found, failed = yield from ask_samples(requests, self.attempts, self.samples, read)
            faults |= failed
            if not found:
                raise faults[min(faults)]
            samples = {place: {**samples[place], question.name: answer} for place, (answer, _) in found.items()}
            for place, (_, thought) in found.items():
                thoughts[place][question.name] = thought
        values = self.columns_of(list(samples.values())) | self.thinking_of([thoughts[place] for place in samples])
        return TableRow(id=row.id, parent_id=row.parent_id, values=values)

    @property
    def infers_columns(self) -> bool:
        """Columns of thinking are there where an answer has any."""
        return True

    def thinking_columns(self) -> list[pa.Field]:
        """The columns of what was thought before the answers that become columns: NAME_reasoning."""
        kept = [name for name in self.asked() if not self.keep or name in self.keep]
        kind = pa.string() if self.samples == 1 else pa.list_(pa.string())
        return [pa.field(thinking_column(name), kind) for name in kept]

    def thinking_of(self, thoughts: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """A row's columns of thinking. thoughts: of each sample, by the prompts' names."""
        columns: dict[str, Any] = {}
        for name in dict.fromkeys(name for sample in thoughts for name, thought in sample.items() if thought):
            texts = [sample.get(name) or None for sample in thoughts]
            columns[thinking_column(name)] = texts[0] if self.samples == 1 else texts
        return columns

    def columns_of(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A row's new columns. samples: the answers by the prompts' names."""
        if not self.own_prompts and self.answer:
            samples = [sample[self.column or TEXT] for sample in samples]
        names = [field.name for field in self.new_columns()]
        if self.samples == 1:
            return {name: samples[0][name] for name in names}
        return {name: [sample[name] for sample in samples] for name in names}


def first_draw(row_id: str) -> int:
    """The number of a row's first draw."""
    return int.from_bytes(blake2b(row_id.encode(), digest_size=5).digest()) * DRAWS_PER_ROW


def read_sample(
    question: Question, samples: Mapping[int, Mapping[str, Any]], place: int, answer: Completion
) -> tuple[Any, str]:
    """What an answer says, and what was thought before it."""
    return question.read(answer, samples[place]), answer.reasoning


def ask_samples(
    requests: Mapping[int, Request], attempts: int, samples: int, read: Callable[[int, Completion], Any]
) -> Generator[list[Request], list[Completion], tuple[dict[int, Any], dict[int, Drop]]]:
    """Ask for samples at once, by place, and again for those whose answer `read` refuses with a Drop, the fault named.
    Every try of every one of `samples` is another draw. What an engine lost is not asked for again. Returns the
    answers and the faults, by place.
    """
    answers: dict[int, Any] = {}
    faults: dict[int, Drop] = {}
    latest: dict[int, Completion] = {}
    places = list(requests)
    for attempt in range(attempts):
        completions = yield [
            retry_request(requests[place], attempt * samples, faults.get(place), latest.get(place)) for place in places
        ]
        for place, completion in zip(places, completions, strict=True):
            latest[place] = completion
            try:
                if completion.error:
                    raise Drop(completion.error)
                answers[place] = read(place, completion)
                faults.pop(place, None)
            except Drop as drop:
                faults[place] = drop
        places = [
            place for place, answer in zip(places, completions, strict=True) if place in faults and not answer.error
        ]
        if not places:
            break
    faults = {place: named_fault(latest[place], fault) for place, fault in faults.items()}
    return dict(sorted(answers.items())), faults


class Prepared(NamedTuple):
    """A stage's prompts, compiled, and the columns that they fill."""

    stage: Ask
    questions: list[Question]
    columns: list[pa.Field]


_prepared: dict[int, Prepared] = {}


def prepared(stage: Ask) -> Prepared:
    """Compiled once in a process. The cache goes by the object, which never changes, because dictionaries of settings
    have no hash; and it is none of the object, so that a copy with other settings lacks it.
    """
    cached = _prepared.get(id(stage))
    if cached is None or cached.stage is not stage:
        if len(_prepared) >= PREPARED_AT_ONCE:
            _prepared.clear()
        own_prompts = list(stage.asked().items())
        questions = [
            Question(name, own, stage.sampling, stage.samples > 1, {earlier for earlier, _ in own_prompts[:place]})
            for place, (name, own) in enumerate(own_prompts)
        ]
        cached = _prepared[id(stage)] = Prepared(stage, questions, filled_columns(stage, questions))
    return cached


def filled_columns(stage: Ask, questions: Sequence[Question]) -> list[pa.Field]:
    """The columns that a stage fills: one of each prompt that it keeps, or the fields of its only prompt's answer."""
    if stage.own_prompts:
        kept = [question for question in questions if not stage.keep or question.name in stage.keep]
        fields = [pa.field(question.name, question.type) for question in kept]
    else:
        fields = questions[0].fields if stage.answer else [pa.field(questions[0].name, pa.string())]
    return [field if stage.samples == 1 else field.with_type(pa.list_(field.type)) for field in fields]
