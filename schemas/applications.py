"""An application: the prompt to be distilled, its environment, and its users' inputs.

Source: docs/papers.md#genpi, section 2 (inputs).
"""

from typing import Literal, Self

import orjson
import regex
from pydantic import Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Row, Thinking

USER, AGENT = "<USER>:", "<AGENT>:"


class Function(Frozen):
    """What a tool call names. arguments: a JSON object as text, as OpenAI sends it."""

    name: str
    arguments: str


class ToolCall(Frozen):
    """One call in OpenAI's form."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class Turn(Frozen):
    """One turn of a dialogue, a message that trainers read. role `tool`: what a called tool returned; reasoning: what
    its model thought before.
    """

    role: Literal["user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: Thinking = None


class InputForm(Frozen):
    """How new user inputs are asked for, and recognised in the answer."""

    demos: tuple[str, ...] = Field(
        (), description="example inputs (the paper has five); without any, the rules suffice"
    )
    list_format: str = Field(
        "{n}. ", description="how the n-th item begins; one that ends in a line break heads items of several lines"
    )
    starts_with: str = Field("", description="an item without it is no input")
    contains: tuple[str, ...] = Field((), description="an item without each of these (in any case) is no input")
    after: str = Field("", description="keep what follows the last of these words, for instance Question:")
    line_break: str = Field("", description="a mark that stands for a line break within an item, for instance <SEP>")
    about: str = Field("", description="one sentence on what the inputs are like, for the author")

    @field_validator("list_format")
    @classmethod
    def check_list_format(cls, list_format: str) -> str:
        if "{n}" not in list_format:
            raise ValueError("list_format has no {n}; expected for instance '{n}. ' or '#### Problem {n}:\\n'")
        return list_format


class Environment(Frozen):
    """What the agent acts on: a description for the model that plays it, or a Python class."""

    name: str = Field(min_length=1, description="for instance: the operating system of a Linux server")
    description: str = Field("", description="what it is and knows, how it behaves")
    observations: str = Field("", description="what its replies look like")
    ends_when: str = Field("", description="when it ends the dialogue; empty: never")
    starts_at: int = Field(1, ge=1, description="the first turn of the prompt that it sees; the rules come before it")
    reminder: str = Field("", description="added to each agent turn that it reads (the paper's repeat description)")
    facts: tuple[str, ...] = Field(
        (), description="what only it knows; one is drawn per dialogue, and the agent never sees it"
    )
    holds: str = Field("", description="what facts consist of, for the author who writes them where there are none")
    world: str = Field("", description="FILE.py:CLASS that answers for real (tasks/engines/worlds.py)")
    marks: str = Field("", description="a regular expression found in its replies, never in the agent's turns")
    failure: str = Field("", description="a regular expression found in replies that say an action failed")

    @field_validator("facts")
    @classmethod
    def check_facts(cls, facts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(fact.strip() for fact in facts):
            raise ValueError("one of the facts is empty; leave it out")
        return facts

    @field_validator("starts_at")
    @classmethod
    def check_starts_at(cls, starts_at: int) -> int:
        if starts_at % 2 == 0:
            raise ValueError("starts_at must be odd, an agent's turn (turns count from 0, the user's are even)")
        return starts_at


class Limits(Frozen):
    """When a dialogue must end."""

    max_turns: int = Field(10, ge=1, le=10_000, description="agent turns")
    max_dialogue_tokens: int | None = Field(None, ge=1, le=1 << 31, description="completion tokens of both sides")


class Application(Row):
    """An agent's prompt in turns, the last one a user turn left open for the input, with its settings."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    turns: tuple[Turn, ...]
    student_input: str = Field("{input}", description="what the student gets, without the prompt")
    inputs: InputForm = InputForm()
    environment: Environment
    tools: str = Field("", description="OpenAI tool definitions, a JSON list as text; empty: none")
    action: str = Field("", description="a regular expression that a valid agent turn matches from end to end")
    marks: str = Field("", description="a regular expression found in agent turns, never in the environment's")
    final: str = Field("", description="a regular expression found in an agent turn that ends the dialogue")
    refusal: str = Field(
        r"(?i)^\W*(i['’]?m sorry|i am sorry|sorry|unfortunately|i can(no|['’])t|i am (un|not )able|as an ai)\b",
        description="a regular expression found in an agent turn that refuses",
    )
    limits: Limits = Limits()
    joint_ratio: float = Field(0.5, ge=0, le=1, description="the SFT loss's share; prompt generation has the rest")
    reason_sentences: int = Field(5, ge=1)

    @model_validator(mode="after")
    def check_application(self) -> Self:
        check_turns(self.turns)
        if self.environment.starts_at >= len(self.turns) and self.environment.starts_at != 1:
            raise ValueError(
                f"environment.starts_at is {self.environment.starts_at}, but the prompt has {len(self.turns)} turns"
            )
        if "{input}" not in self.student_input:
            raise ValueError("student_input has no {input}; expected for instance 'A new problem: {input}'")
        for name, pattern in self.patterns().items():
            try:
                regex.compile(pattern)
            except (regex.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{name} is no regular expression ({error}): {pattern!r:.80}") from error
        return self

    def patterns(self) -> dict[str, str]:
        """Every regular expression of the file, by its setting."""
        return {
            "action": self.action,
            "final": self.final,
            "refusal": self.refusal,
            "marks": self.marks,
            "environment.marks": self.environment.marks,
            "environment.failure": self.environment.failure,
        }

    @property
    def context(self) -> str:
        """The whole prompt as one text with role markers, the open turn last."""
        marks = {"user": USER, "assistant": AGENT}
        return "\n".join(f"{marks[turn.role]} {turn.content}" for turn in self.turns)

    def turns_with(self, pseudo_input: str) -> tuple[Turn, ...]:
        """The prompt's turns with an input appended to the open turn: the teacher's view."""
        *fixed, last = self.turns
        space = " " if last.content[-1:].strip() else ""  # `Problem:` and an input are two words
        return (*fixed, Turn(role="user", content=last.content + space + pseudo_input))

    def for_student(self, pseudo_input: str) -> str:
        """The student's view of an input."""
        return self.student_input.replace("{input}", pseudo_input)

    @classmethod
    def with_id(cls, **fields: object) -> Self:
        """The application with its content's hash as id."""
        application = cls.model_validate({"id": "", **fields})
        row_id = content_hash(application.model_dump(mode="json", exclude={"id"}))[:24]
        return application.model_copy(update={"id": row_id})


def check_turns(turns: tuple[Turn, ...]) -> None:
    """Raises ValueError unless turns alternate from a user turn to an open user turn."""
    if not turns:
        raise ValueError("the prompt is empty; expected turns that begin and end with a user turn")
    for place, turn in enumerate(turns):
        expected = "assistant" if place % 2 else "user"
        if turn.role != expected:
            before = f" after another {turn.role} turn" if place else ""
            raise ValueError(
                f"the prompt's roles are unbalanced: turn {place} is {turn.role}'s{before}, expected {expected}'s; "
                "user and agent take turns, the user begins"
            )
    if turns[-1].role != "user":
        raise ValueError(
            f"the prompt has no open user turn: its last turn, {len(turns) - 1}, is the agent's; end it with a user "
            "turn, which may be empty, for the input to follow"
        )
    if empty := [place for place, turn in enumerate(turns[:-1]) if not turn.content.strip()]:
        raise ValueError(f"turn {empty[0]} of the prompt is empty; only the last may be")


def tool_names(tools: str) -> tuple[str, ...]:
    """The names in a JSON list of OpenAI tool definitions."""
    return tuple(tool["function"]["name"] for tool in orjson.loads(tools)) if tools else ()
