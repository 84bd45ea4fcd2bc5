"""The rows of role-swap dialogue synthesis, from an application to training rows. docs/papers.md#genpi."""

from typing import Literal

from pydantic import Field

from synthmill.schemas.applications import Application, Turn
from synthmill.schemas.rows import Row, Thinking

EndReason = Literal[
    "marker", "world", "agent", "goal", "repetition", "max_turns", "max_dialogue_tokens", "context_overflow"
]
"""Why a dialogue ended: the environment said its end marker, the real one was over, the agent made a final move, a
judge saw the goal reached, the agent repeated itself, or a limit was met."""


class Drafts(Row):
    """What the author wrote for one application: items in call order, not yet deduplicated."""

    application: Application
    drafts: tuple[str, ...]
    drawn_by_call: tuple[int, ...] = Field((), description="items that each call gave, 0 where the form was missed")


class PseudoInput(Row):
    """One made-up user input."""

    application: Application
    pseudo_input: str


class SingleTurn(PseudoInput):
    """The first answers without (student) and with (teacher) the application's prompt."""

    student_output_single: str
    teacher_output_single: str
    student_finish_reason: str = "stop"
    teacher_finish_reason: str = "stop"
    teacher_calls_tool: bool = Field(False, description="then the output is the call, a JSON object")
    student_reasoning: Thinking = None
    teacher_reasoning: Thinking = None


class Reasoned(SingleTurn):
    """... and why the prompt makes the difference."""

    reason: str


class Opening(Reasoned):
    """A dialogue before its first turn: which branch of its input, and what only the environment knows."""

    branch: int
    facts: str


class Dialogue(Opening):
    """A whole dialogue after the input. turns: agent and environment in turn, from the agent's first.

    facts, goal, course: what the planner wrote or the application gave. real_observations: per reply of the
    environment, what the real one said to the same action (null where it was not asked).
    """

    goal: str = ""
    course: str = ""
    turns: tuple[Turn, ...]
    end_reason: EndReason
    agent_turns: int
    real_observations: tuple[str | None, ...] = ()
    stray_markers: int = Field(0, description="end markers inside longer turns, taken out")
    cut_turns: int = Field(0, description="turns that ended at max_tokens, or by a content filter")
    asked_again: int = Field(0, description="turns that were empty, early or malformed and asked for again")
    completion_tokens: int = 0


class SignedDialogue(Dialogue):
    """... with signs of its quality; shares are 0 to 1."""

    repeated_turns: int = Field(description="agent turns that say what an earlier one said")
    confused_agent: int = Field(description="agent turns that speak as the environment")
    confused_environment: int = Field(description="environment turns that speak as the agent")
    format_adherence: float | None = Field(description="share of agent turns that the application's grammar accepts")
    copied_prompt: float = Field(description="share of its words in runs of 8 that stand in the prompt's user turns")
    observation_chars: float = Field(description="mean length of the environment's turns")
    realism: float | None = Field(description="mean ROUGE-L of simulated against real replies, where both were asked")
    same_outcome: float | None = Field(description="share of replies that agree with the real one on failure")
    kept: bool = Field(description="the cut's verdict")
    cut_by: str = Field("", description="the sign that the dialogue was cut by")


class TrainingRow(Row):
    """One row to train on. kind: sft (a dialogue without the prompt) or prompt_generation (prompt and reason to write).

    weight: the share of this row in its input's joint loss; an input's weights add up to 1, or to 1 - joint_ratio
    when its dialogues were cut.
    """

    application_name: str
    kind: Literal["sft", "prompt_generation"]
    messages: tuple[Turn, ...]
    tools: str
    joint_ratio: float
    weight: float
    longest_target_tokens: int = Field(description="of its assistant turns; estimated where no tokenizer is set")
