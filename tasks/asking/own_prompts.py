"""One prompt of a user's own: its text, the form of its answer, and the checks that the answer must pass."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from synthmill.schemas.calls import Completion, Frozen, Message, Request, Sampling
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import content_hash
from synthmill.tasks.asking.answer_checks import FieldCheck, check_fields, first_fault
from synthmill.tasks.asking.answer_forms import AnswerForm, answer_schema, arrow_of
from synthmill.tasks.asking.templates import Names, Template, expression_of, template_of

FILE = ".jinja"
TEXT = "answer"
"""What the text of an answer without a form is called in its checks."""


def read_text(value: Any, info: ValidationInfo) -> Any:
    """A prompt's text: that of the file if it is the path of one (from the folder of the validation's context, or the
    one of this process), else itself. Raises ValueError.
    """
    return text_of(value, (info.context or {}).get("folder", "."))


def text_of(value: Any, folder: str | Path = ".") -> Any:
    """The text of the file that a value names; any other value as it is. Raises ValueError."""
    if not isinstance(value, str) or not value.endswith(FILE) or "\n" in value or "{" in value:
        return value
    path = Path(folder, Path(value).expanduser())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{value} cannot be read ({error}); expected a Jinja template, or the text itself") from error
    try:
        template_of(text)
    except ValueError as error:
        raise ValueError(f"{value}, {error}") from error
    return text


def with_prompt_texts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is written of a stage, with the texts of the files that its prompts name, so that it means the same where
    these files are not. What cannot be read stays as it is: the stage says what is wrong.
    """
    read = dict(fields)
    for name, value in fields.items():
        if name == "prompts" and isinstance(value, Mapping):
            read[name] = {
                each: with_prompt_texts(own)
                if isinstance(own, Mapping)
                else with_prompt_texts({"prompt": own})["prompt"]
                for each, own in value.items()
            }
        elif name in ("prompt", "system"):
            with suppress(ValueError):
                read[name] = text_of(value)
    return read


def check_text(text: str) -> str:
    if text:
        template_of(text)
    return text


PromptText = Annotated[str, BeforeValidator(read_text), AfterValidator(check_text)]


def read_answer(value: Any) -> Any:
    """The complete schema of an answer that may be written in short. Raises ValueError."""
    if isinstance(value, Mapping):
        schema = answer_schema(value)
        AnswerForm(schema)
        return schema
    if value is not None:
        raise ValueError(f"{value!r} names no fields; expected new columns, for instance {{summary: text}}")
    return value


AnswerFields = Annotated[dict[str, Any] | None, BeforeValidator(read_answer)]


class OwnPrompt(Frozen):
    """A prompt as its settings write it; may be the text alone. What is left open is the stage's."""

    prompt: PromptText = Field(min_length=1, description="the template's text, or the path of a .jinja file")
    system: PromptText | None = Field(None, description="the template of a system message")
    role: str | None = Field(None, description="who is asked")
    answer: AnswerFields = Field(None, description="the answer's fields as a JSON schema, in short; none: a text")
    check: dict[str, FieldCheck] = Field(default_factory=dict, description=f"by field; a text is called {TEXT!r}")
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=1 << 31)

    @model_validator(mode="before")
    @classmethod
    def from_text(cls, value: Any) -> Any:
        return {"prompt": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def fits_together(self) -> "OwnPrompt":
        check_system(self.prompt, self.system)
        check_fields(self.check, AnswerForm(self.answer).fields if self.answer else [pa.field(TEXT, pa.string())])
        return self

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of its texts."""
        return content_hash([self.system, self.prompt])[:12]


def check_system(prompt: str, system: str | None) -> None:
    """Raises ValueError for a system message that could not be sent beside a prompt."""
    if system and template_of(system).roles:
        raise ValueError("system: a system message is one text, without blocks")
    if system and "system" in template_of(prompt).roles:
        raise ValueError("system: the prompt has a system block of its own; write one of them")


class Question:
    """An own prompt, compiled: what it reads of a row, what it asks, and what it makes of the answer."""

    def __init__(
        self, name: str, own: OwnPrompt, sampling: Sampling, optional: bool, earlier: AbstractSet[str] = frozenset()
    ) -> None:
        """sampling: the stage's. optional: whether other samples go on where a request fails. earlier: the names of
        the prompts before it.
        """
        self.name = name
        self.checks = own.check
        self.form = AnswerForm(own.answer) if own.answer else None
        templates = {"prompt": template_of(own.prompt)} | ({"system": template_of(own.system)} if own.system else {})
        self.prompt: Template = templates["prompt"]
        self.system: Template | None = templates.get("system")
        checks = {f"check.{name}": check.expression for name, check in own.check.items() if check.expression}
        self.reads = {place: template.names for place, template in templates.items()}
        self.expressions = {place: expression_of(text).names for place, text in checks.items()}
        self.follows = any(names.whole_row or names.columns & earlier for names in self.reads.values())
        own_sampling = {name: getattr(own, name) for name in ("temperature", "top_p", "max_tokens")}
        changed = {name: value for name, value in own_sampling.items() if value is not None}
        self.request = Request(
            role=own.role or "",
            messages=(),
            sampling=sampling.model_copy(update=changed),
            schema_=self.form.schema if self.form else None,
            optional=optional,
        )

    @property
    def is_greedy(self) -> bool:
        """Whether equal requests have equal answers."""
        return self.request.sampling.temperature == 0

    @property
    def all_names(self) -> list[Names]:
        """What its templates and expressions read."""
        return [*self.reads.values(), *self.expressions.values()]

    @property
    def fields(self) -> list[pa.Field]:
        """The fields of its answer, as its expressions see them."""
        return self.form.fields if self.form else [pa.field(TEXT, pa.string())]

    @property
    def type(self) -> pa.DataType:
        """The type of its answer as one column."""
        return arrow_of(self.form.schema) if self.form else pa.string()

    def check_columns(self, columns: pa.Schema, step: str) -> None:
        """Raises InputError for a variable of its templates and expressions that no column has."""
        for place, names in self.reads.items():
            names.check(columns, f"{step}: {place}")
        beside = [field for field in columns if field.name not in {own.name for own in self.fields}]
        for place, names in self.expressions.items():
            names.check(pa.schema([*beside, *self.fields]), f"{step}: {place}")

    def messages(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """What is asked of a row. Raises Drop: null_column, bad_prompt, empty_prompt."""
        messages = self.prompt.messages(values)
        if not messages:
            raise Drop("empty_prompt: the prompt's text is empty for this row")
        return (*self.system.messages(values, "system"), *messages) if self.system else messages

    def requests(
        self, samples: Mapping[int, Mapping[str, Any]], first: int
    ) -> tuple[dict[int, Request], dict[int, Drop]]:
        """What is asked for each sample, by place, and the samples that cannot be asked. samples: the values of each;
        they share their messages where these do not depend on earlier answers.
        """
        requests: dict[int, Request] = {}
        faults: dict[int, Drop] = {}
        messages: tuple[Message, ...] = ()
        for place, values in samples.items():
            try:
                messages = messages if messages and not self.follows else self.messages(values)
            except Drop as drop:
                faults[place] = drop
                continue
            requests[place] = self.request.model_copy(update={"messages": messages, "sample": first + place})
        return requests, faults

    def read(self, completion: Completion, values: Mapping[str, Any]) -> Any:
        """The answer: a text, or its fields. Raises Drop: empty_answer, cut_answer, bad_answer, failed_check."""
        text = completion.text.strip()
        ending = ending_of(completion.finish_reason)
        if ending != "stop":
            cause = "too long; be shorter" if ending == "length" else "broken off"
            raise Drop(f"cut_answer: the answer was {cause}")
        if not text:
            raise Drop("empty_answer: the answer was empty")
        fields = self.form.read(completion) if self.form else {TEXT: text}
        if fault := first_fault(self.checks, fields, values):
            raise Drop(f"failed_check: {fault}")
        return fields if self.form else text
