"""What an application's prompt changes: first answers without it and with it, and the reason for the difference.

Source: docs/papers.md#genpi, steps S2 and S3.
"""

from typing import ClassVar

from schemas.applications import Turn
from schemas.calls import Message, Request, Sampling
from schemas.dialogues import PseudoInput, Reasoned, SingleTurn
from schemas.errors import Drop
from tasks.prompts import load
from tasks.recipe import Recipe, Steps
from tasks.tools import as_text, read_turn, turn_schema

SYSTEM = Message(role="system", content="You are a helpful assistant.")


def as_messages(turns: tuple[Turn, ...]) -> tuple[Message, ...]:
    """A prompt's turns as a model is given them."""
    return tuple(Message(role=turn.role, content=turn.content) for turn in turns)


class Outputs(Recipe[PseudoInput, SingleTurn]):
    """Input -> the student's answer (the input alone) and the teacher's (the whole prompt, then the input); a tool call
    is written as JSON.

    Source: docs/papers.md#genpi, step S2; the paper: temperature 0, 2,048 tokens.
    """

    name: ClassVar = "outputs"
    version: ClassVar = "1"
    roles: ClassVar = ("student", "teacher")

    sampling: Sampling = Sampling(temperature=0, top_p=1, max_tokens=2048)

    def requests_per_row(self) -> int:
        return 2

    def steps(self, row: PseudoInput) -> Steps[SingleTurn]:
        application = row.application
        alone = (SYSTEM, Message(role="user", content=application.for_student(row.pseudo_input)))
        student, teacher = yield [
            Request(role="student", messages=alone, sampling=self.sampling),
            Request(
                role="teacher",
                messages=(SYSTEM, *as_messages(application.opened(row.pseudo_input))),
                sampling=self.sampling,
                schema_=turn_schema(application.tools),
            ),
        ]
        outputs = {"student": student.text.strip(), "teacher": as_text(read_turn(teacher.text, application.tools))}
        if empty := [whose for whose, text in outputs.items() if not text]:
            raise Drop(f"empty_answer: the {empty[0]}'s")
        made = {f"{whose}_output_single": text for whose, text in outputs.items()}
        return SingleTurn.child_of(row, self.name, **made)


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
        [said] = yield [
            Request(role="author", messages=load("role_swap/reason").render(row=row), sampling=self.sampling)
        ]
        if not said.text.strip():
            raise Drop("empty_reason")
        return Reasoned.child_of(row, self.name, reason=said.text.strip())
