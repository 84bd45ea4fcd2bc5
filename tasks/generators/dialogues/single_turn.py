"""The effect of an application's prompt: first answers without and with it, and the reason for the difference.

Source: docs/papers.md#genpi, steps S2 and S3.
"""

from typing import ClassVar

from pydantic import Field

from synthmill.schemas.applications import Turn
from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.dialogues import PseudoInput, Reasoned, SingleTurn
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.dialogues.tools import Act, as_text, functions_of, read_turn, turn_schema
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps, ask_until, was_cut_while_thinking, with_more_room
from synthmill.tasks.texts.thinking import PLAINLY_EMPTY, check_answered, named_fault, why_empty

SYSTEM = Message(role="system", content="You are a helpful assistant.")


def as_messages(turns: tuple[Turn, ...]) -> tuple[Message, ...]:
    """A prompt's turns as messages for a model."""
    return tuple(Message(role=turn.role, content=turn.content) for turn in turns)


def warm_sampling(sampling: Sampling) -> Sampling:
    """Sampling at a temperature of at least 0.7, for another attempt: at 0, the model would repeat its answer."""
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

    def requests_per_row(self) -> int:
        return 1 + self.attempts

    def steps(self, row: PseudoInput) -> Steps[SingleTurn]:
        application, tools = row.application, row.application.tools
        persona = load("role_swap/agent").render(row=row, tools=functions_of(tools)) if tools else (SYSTEM,)
        student_messages = (SYSTEM, Message(role="user", content=application.for_student(row.pseudo_input)))
        teacher_messages = (*persona, *as_messages(application.turns_with(row.pseudo_input)))
        request = Request(role="teacher", messages=teacher_messages, sampling=self.sampling, schema_=turn_schema(tools))
        student, teacher = yield [Request(role="student", messages=student_messages, sampling=self.sampling), request]
        try:
            if was_cut_while_thinking(teacher):
                raise Drop(why_empty(teacher))
            act = read_turn(teacher.text, tools)
        except Drop as drop:
            if self.attempts == 1:
                raise named_fault(teacher, drop) from drop
            retry = request.model_copy(update={"sample": 1, "sampling": warm_sampling(self.sampling)})
            if was_cut_while_thinking(teacher):
                retry = with_more_room(retry, 1)

            def read(completion: Completion) -> tuple[Act, Completion]:
                return read_turn(completion.text, tools), completion

            act, teacher = yield from ask_until(retry, self.attempts - 1, read)
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
    """Both answers -> why the prompt made the difference.

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
