"""The effect of an application's prompt: first answers without and with it, and the reason for the difference.

Source: docs/papers.md#genpi, steps S2 and S3.
"""

from typing import Any, ClassVar

from pydantic import Field

from synthmill.schemas.applications import Turn
from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.dialogues import PseudoInput, Reasoned, SingleTurn
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.dialogues.native_calls import (
    ToolCalls,
    is_schema,
    native_history,
    read_call,
    tool_definitions,
    with_fault,
)
from synthmill.tasks.generators.dialogues.tools import Act, as_text, functions_of, read_turn, turn_schema
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps, ask_until, was_cut_while_thinking, with_more_room
from synthmill.tasks.texts.breaches import BREACH
from synthmill.tasks.texts.thinking import PLAINLY_EMPTY, check_answered, named_fault, why_empty

SYSTEM = Message(role="system", content="You are a helpful assistant.")


def as_messages(turns: tuple[Turn, ...]) -> tuple[Message, ...]:
    """A prompt's turns as messages for a model."""
    return tuple(Message(role=turn.role, content=turn.content) for turn in turns)


def warm_sampling(sampling: Sampling) -> Sampling:
    """Sampling at a temperature of at least 0.7, for another attempt: at 0, the model would repeat its answer. One that
    is left to the engine stays so.
    """
    if sampling.temperature is None:
        return sampling
    return sampling.model_copy(update={"temperature": max(0.7, sampling.temperature)})


class Outputs(Recipe[PseudoInput, SingleTurn]):
    """Input -> the student's answer (the input alone) and the teacher's (the whole prompt, then the input); a tool call
    is written as JSON.

    Source: docs/papers.md#genpi, step S2; the paper: temperature 0, 2,048 tokens.
    """

    name: ClassVar = "outputs"
    version: ClassVar = "2"
    roles: ClassVar = ("student", "teacher")

    prompts: ClassVar = {"role_swap/agent": ("tools",)}

    sampling: Sampling = Sampling(temperature=0, top_p=1, max_tokens=2048)
    attempts: int = Field(3, ge=1, description="for a malformed tool call, or an answer that ended in its thinking")
    tool_calls: ToolCalls = Field("schema", exclude_if=is_schema, description="native: the server's own tool calls")

    def requests_per_row(self) -> int:
        return 1 + self.attempts

    def steps(self, row: PseudoInput) -> Steps[SingleTurn]:
        application, tools = row.application, row.application.tools
        native = self.tool_calls == "native" and bool(tools)
        instructions = load("role_swap/agent").render(row=row, tools=() if native else functions_of(tools))
        persona = instructions if tools else (SYSTEM,)
        student_messages = (SYSTEM, Message(role="user", content=application.for_student(row.pseudo_input)))
        turns = application.turns_with(row.pseudo_input)
        teacher_messages = (*persona, *(native_history(turns, tools) if native else as_messages(turns)))
        form: dict[str, Any] = {"tools": tool_definitions(tools)} if native else {"schema_": turn_schema(tools)}
        request = Request(role="teacher", messages=teacher_messages, sampling=self.sampling, **form)

        def read(completion: Completion) -> Act:
            return read_call(completion, tools)[0] if native else read_turn(completion.text, tools)

        student, teacher = yield [Request(role="student", messages=student_messages, sampling=self.sampling), request]
        try:
            if was_cut_while_thinking(teacher):
                raise Drop(why_empty(teacher))
            act = read(teacher)
        except Drop as drop:
            if self.attempts == 1:
                raise named_fault(teacher, drop) from drop
            again = {"sample": 1, "sampling": warm_sampling(self.sampling), "asked_again": True}
            retry = with_fault(request.model_copy(update=again), drop if drop.reason == BREACH else None)
            if was_cut_while_thinking(teacher):
                retry = with_more_room(retry, 1)
            act, teacher = yield from ask_until(retry, self.attempts - 1, lambda answer: (read(answer), answer))
        outputs = {"student": student.text.strip(), "teacher": as_text(act)}
        for whose, completion in (("student", student), ("teacher", teacher)):
            if not outputs[whose]:
                raise named_fault(completion, Drop(f"{PLAINLY_EMPTY}: the {whose}'s"))
        return SingleTurn.child_of(
            row,
            self.name,
            student_output_single=outputs["student"],
            teacher_output_single=outputs["teacher"],
            student_finish_reason=student.finish_reason,
            teacher_finish_reason=teacher.finish_reason,
            teacher_calls_tool=bool(act.tool),
            student_reasoning=student.reasoning or None,
            teacher_reasoning=teacher.reasoning or None,
        )


class Reasons(Recipe[SingleTurn, Reasoned]):
    """A student's and a teacher's answer -> why the prompt made the difference.

    Source: docs/papers.md#genpi, step S3; the paper: temperature 0.7, top_p 0.9, 512 tokens.
    """

    name: ClassVar = "reasons"
    version: ClassVar = "1"
    roles: ClassVar = ("author",)
    prompts: ClassVar = {"role_swap/reason": ()}

    sampling: Sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=512)

    def steps(self, row: SingleTurn) -> Steps[Reasoned]:
        [completion] = yield [
            Request(role="author", messages=load("role_swap/reason").render(row=row), sampling=self.sampling)
        ]
        check_answered(completion, "empty_reason")
        return Reasoned.child_of(row, self.name, reason=completion.text.strip())
