"""Rubrics, instructions, and a response with feedback for each score: what judges are trained on.

Source: docs/papers.md#feedback-collection.
"""

import random
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id
from synthmill.schemas.multifaceted import Rubric
from synthmill.schemas.rows import Dropped, Instruction, Row
from synthmill.schemas.texts import normalised, one_line
from synthmill.tasks.frames import FrameStage, frame_schema
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_all, ask_until, read_json
from synthmill.tasks.scorers.biggen import RUBRIC_SCHEMA, read_reference, read_rubric
from synthmill.tasks.scorers.rubric_reward import object_of
from synthmill.tasks.scorers.verdicts import TAG

SEEDS = "seed_rubrics"
SCORES = range(1, 6)
TEXT = {"type": "string", "minLength": 1}


class SeedRubric(Row):
    """A criterion that one fine-grained rubric is written from; number: which of all rubrics that is."""

    criteria: str
    number: int


class RubricTasks(Row):
    """A fine-grained rubric, and instructions for which it matters."""

    rubric: Rubric
    instructions: tuple[str, ...]


class RubricTask(Instruction):
    """An instruction and the rubric that responses to it are judged by."""

    rubric: Rubric


class Response(Frozen):
    """A response that was written to have a score, and feedback that says why."""

    score: int
    text: str
    feedback: str


class ComparedResponses(Frozen):
    """Two responses by score, in the order in which they are shown, and feedback that compares them."""

    first: int
    second: int
    feedback: str


class JudgedTask(RubricTask):
    """... with a reference answer, a response for each score from 1 to 5, and feedback on pairs of them."""

    reference: str
    responses: tuple[Response, ...]
    pairs: tuple[ComparedResponses, ...] = ()


class FineRubrics(Recipe[SeedRubric, RubricTasks]):
    """Seed criterion -> a fine-grained rubric for some kind of task, and instructions for which it matters.

    Drops: bad_rubric, bad_instructions.
    """

    name: ClassVar = "fine_rubrics"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"prometheus/rubric": (), "prometheus/instructions": ("rubric", "count")}

    count: int = Field(20, ge=1, description="instructions of a rubric")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return 2 * self.attempts

    def steps(self, row: SeedRubric) -> Steps[RubricTasks]:
        asking = Request(
            role="teacher",
            messages=load("prometheus/rubric").render(row=row),
            sampling=self.sampling,
            schema_=RUBRIC_SCHEMA,
            sample=row.number * MOST_ATTEMPTS,  # every rubric is another draw
        )
        rubric = yield from ask_until(asking, self.attempts, read_rubric)
        if rubric is None:
            raise Drop("bad_rubric: there is none")
        texts = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": self.count}
        asking = asking.model_copy(
            update={
                "messages": load("prometheus/instructions").render(row=row, rubric=rubric, count=self.count),
                "schema_": object_of({"instructions": texts}),
            }
        )
        instructions = yield from ask_until(asking, self.attempts, read_instructions)
        return RubricTasks.child_of(row, self.name, rubric=rubric, instructions=instructions[: self.count])


class RubricTaskRows(FrameStage):
    """Rubrics -> a row for each of their instructions."""

    name: ClassVar = "rubric_tasks"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "rubric", "instructions")
    adds: ClassVar = tuple(RubricTask.model_fields)

    count: int = Field(20, ge=1)

    def rows_per_row(self) -> int:
        return self.count

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows = [
            RubricTask(id=child_id(row_id, n), parent_id=row_id, prompt=text, source=SEEDS, rubric=rubric).model_dump()
            for row_id, rubric, texts in frame.select("id", "rubric", "instructions").rows()
            for n, text in enumerate(texts)
        ]
        return pl.DataFrame(rows, schema=frame_schema(RubricTask)), []


class ScoredResponses(Recipe[RubricTask, JudgedTask]):
    """Instruction with a rubric -> a reference answer, and for each score from 1 to 5 a response that deserves it with
    feedback that says why: the label is what was asked for.

    Responses are as long as the reference, give or take `length_ratio`. Drops: cut_reference, empty_reference,
    bad_response (also one of another length), same_response.
    """

    name: ClassVar = "scored_responses"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"biggen/reference": (), "prometheus/response": ("reference", "score", "words")}

    length_ratio: float = Field(
        2.0, gt=1, description="of a response's words to the reference's, at most, or its inverse"
    )
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return (1 + len(SCORES)) * self.attempts

    def steps(self, row: RubricTask) -> Steps[JudgedTask]:
        messages = load("biggen/reference").render(row=row)
        asking = Request(role="teacher", messages=messages, sampling=self.sampling)
        reference = yield from ask_until(asking, self.attempts, read_reference)
        if reference is None:
            raise Drop("empty_reference: there is none")
        words = len(reference.split())
        requests = [
            Request(
                role="teacher",
                messages=load("prometheus/response").render(row=row, reference=reference, score=score, words=words),
                sampling=self.sampling,
                schema_=object_of({"response": TEXT, "feedback": TEXT}),
            )
            for score in SCORES
        ]
        responses = yield from ask_all(
            requests,
            self.attempts,
            lambda n, answer: read_response(answer, n + 1, words, self.length_ratio),
            same_texts,
        )
        return JudgedTask.child_of(row, self.name, reference=reference, responses=tuple(responses))


class PairFeedback(Recipe[JudgedTask, JudgedTask]):
    """Task with five responses -> the same with feedback on each of their ten pairs, shown in an order drawn by the
    seed; the better one is the one with the higher score. Drops: bad_feedback.
    """

    name: ClassVar = "pair_feedback"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"prometheus/compare": ("first", "second", "better")}

    seed: int = 0
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return 10 * self.attempts

    def steps(self, row: JudgedTask) -> Steps[JudgedTask]:
        pairs = []
        for low, high in combinations(row.responses, 2):
            swap = random.Random(f"{self.seed} {row.id} {low.score} {high.score}").random() < 0.5
            pairs.append((high, low) if swap else (low, high))
        requests = [
            Request(
                role="teacher",
                messages=load("prometheus/compare").render(
                    row=row, first=first.text, second=second.text, better=better_of(first.score, second.score)
                ),
                sampling=self.sampling,
            )
            for first, second in pairs
        ]
        feedback = yield from ask_all(requests, self.attempts, lambda _, completion: read_feedback(completion))
        compared = [
            ComparedResponses(first=first.score, second=second.score, feedback=text)
            for (first, second), text in zip(pairs, feedback, strict=True)
        ]
        return row.model_copy(update={"pairs": tuple(compared)})


def better_of(first: int, second: int) -> Literal["A", "B"]:
    """The letter of the better one of two responses, by their scores."""
    return "A" if first > second else "B"


def read_instructions(completion: Completion) -> tuple[str, ...]:
    """The different instructions of an answer. Raises Drop where there is none."""
    listed = read_json(completion, "bad_instructions").get("instructions")
    texts = [text.strip() for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
    different = {normalised(text): text for text in texts if text}
    if not different:
        raise Drop("bad_instructions: it listed none; list them as texts in `instructions`")
    return tuple(different.values())


def read_response(completion: Completion, score: int, words: int, ratio: float) -> Response:
    """A response and its feedback. Raises Drop where one is missing, or the response has another length."""
    fields = read_json(completion, "bad_response")
    text, feedback = fields.get("response"), fields.get("feedback")
    if not isinstance(text, str) or not isinstance(feedback, str) or not text.strip() or not feedback.strip():
        raise Drop("bad_response: it had no texts `response` and `feedback`")
    count = len(text.split())
    if not words / ratio <= count <= words * ratio:
        raise Drop(f"bad_response: it had {count} words; write about {words}, whatever its quality")
    if TAG.search(feedback):
        raise Drop("bad_response: the feedback had a [RESULT]; leave it out")
    return Response(score=score, text=text.strip(), feedback=one_line(feedback))


def same_texts(responses: Any) -> dict[int, Drop]:
    """A fault for every response that is the same as one before it."""
    seen: dict[str, int] = {}
    faults = {}
    for place, response in enumerate(responses):
        if response is not None and seen.setdefault(normalised(response.text), place) != place:
            faults[place] = Drop("same_response: it is the same as the response of another score; write another one")
    return faults


def read_feedback(completion: Completion) -> str:
    """Feedback on two responses. Raises Drop where it is empty, was cut, or has a verdict of its own."""
    text = one_line(completion.text)
    if completion.finish_reason == "length":
        raise Drop("bad_feedback: it was cut, because it was too long; be shorter")
    if not text or TAG.search(text):
        raise Drop("bad_feedback: it was empty or had a [RESULT]; write sentences only")
    return text
