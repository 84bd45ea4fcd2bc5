"""How much better a teacher answers a prompt than a student: a judge scores both, and says of what type the task is.

Source: docs/papers.md#tapir, the model fitting difficulty.
"""

from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Dropped, Thinking
from synthmill.tasks.frames import FrameStage, even_parts
from synthmill.tasks.generators.answers import answer_request
from synthmill.tasks.generators.rated_prompts import CATEGORIES
from synthmill.tasks.generators.respond import answered
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_all

SCORES = tuple(map(str, range(1, 11)))


class TypedPrompt(Question):
    """A prompt of a type of task. parents: what it was made of."""

    parents: tuple[str, ...] = ()
    task_type: str = ""


class Gap(TypedPrompt):
    """A prompt with the teacher's and the student's answers, their scores from 1 to 10, and the difference."""

    response: str
    finish_reason: str = ""
    student_response: str
    teacher_score: int
    student_score: int
    gap: float
    reasoning: Thinking = None


class TeacherGaps(Recipe[TypedPrompt, Gap]):
    """Prompt -> how far the student's answer stays behind the teacher's, and the type of its task.

    Each answer is scored by itself, so neither has a place before the other. Drops: empty_answer; after `attempts`
    tries bad_score, bad_type.
    """

    name: ClassVar = "teacher_gaps"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher", "student", "judge")
    prompts: ClassVar = {"tapir/score": ("answer",), "tapir/task_type": ("task_types",)}

    task_types: tuple[str, ...] = Field(CATEGORIES, min_length=1)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return 5 * self.attempts

    def steps(self, row: TypedPrompt) -> Steps[Gap]:
        asks = [answer_request(row, role, self.sampling) for role in ("teacher", "student")]
        teacher, student = yield from ask_all(asks, self.attempts, lambda _, completion: answered(completion))
        scores = [load("tapir/score").render(row=row, answer=answer.text) for answer in (teacher, student)]
        of_type = load("tapir/task_type").render(row=row, task_types=self.task_types)
        cold = Sampling(temperature=0.0, top_p=None, max_tokens=16, seed=self.sampling.seed)
        choices = (SCORES, SCORES, self.task_types)
        requests = [
            Request(role="judge", messages=messages, sampling=cold, choice=choice)
            for messages, choice in zip((*scores, of_type), choices, strict=True)
        ]

        def parse(place: int, completion: Completion) -> str:
            text = completion.text.strip().strip(".").casefold()
            by_text = {choice.casefold(): choice for choice in choices[place]}
            if text not in by_text:
                reason = "bad_type" if place == 2 else "bad_score"
                raise Drop(f"{reason}: it was {text!r:.60}; name one of {', '.join(choices[place])}")
            return by_text[text]

        first, second, task_type = yield from ask_all(requests, self.attempts, parse)
        return Gap.child_of(
            row,
            self.name,
            task_type=task_type,
            response=teacher.text.strip(),
            finish_reason=teacher.finish_reason,
            student_response=student.text.strip(),
            teacher_score=int(first),
            student_score=int(second),
            gap=float(int(first) - int(second)),
            reasoning=teacher.reasoning or None,
        )


class HardPrompts(FrameStage):
    """Rows with a `gap` -> those on which the student is at least `least_gap` behind. Drops: too_easy, with the gap."""

    name: ClassVar = "hard_prompts"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "gap")

    least_gap: float = 2.0

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        easy = frame.filter(pl.col("gap") < self.least_gap).select("id", "gap")
        dropped = [Dropped(id=row, reason="too_easy", detail=f"gap {gap:g}") for row, gap in easy.iter_rows()]
        return frame.filter(pl.col("gap") >= self.least_gap), dropped


class CurriculumRounds(FrameStage):
    """Rows with a `gap` -> the same with a `round`: `rounds` of equal size, the easiest first; equal gaps by id."""

    name: ClassVar = "curriculum_rounds"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "gap")
    adds: ClassVar = ("round",)

    rounds: int = Field(3, ge=1)
    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        places = frame.select("id", "gap").with_row_index("place").sort("gap", "id")["place"]
        rank = pl.Series(range(frame.height), dtype=pl.Int64)
        rounds = pl.DataFrame({"place": places, "round": 1 + rank * self.rounds // max(1, frame.height)})
        return frame.with_columns(rounds.sort("place")["round"]), []
