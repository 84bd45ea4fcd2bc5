"""Bench rows: for each value of a bench variant, a rubric that scores whether a response honours it.

Source: docs/papers.md#multifaceted, "bench".
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from synthmill.schemas.calls import Request
from synthmill.schemas.multifaceted import SCORES, BenchRow, Rubric, Variant
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps, ask_all, read_json


def rubric_schema() -> dict[str, Any]:
    """The JSON schema of a rubric: criteria, and a description of each score."""

    def text(least: int, most: int) -> dict[str, Any]:
        return {"type": "string", "minLength": least, "maxLength": most}

    def closed_object(properties: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(properties),
            "required": list(properties),
            "additionalProperties": False,
        }

    scores = closed_object(dict.fromkeys(SCORES, text(10, 300)))
    return closed_object({"criteria": text(10, 300), "score_descriptions": scores})


class Rubrics(Recipe[Variant, BenchRow]):
    """Bench variant -> its bench row: a rubric for each value, one call each, and the response as reference answer.

    Drops: bad_rubric. Source: docs/papers.md#multifaceted, "bench".
    """

    name: ClassVar = "rubrics"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"multifaceted/rubric": ("value",)}

    attempts: int = Field(3, ge=1)
    dimensions: int = Field(4, ge=1, exclude=True, description="for plans")

    def requests_per_row(self) -> int:
        return self.dimensions * self.attempts

    def steps(self, row: Variant) -> Steps[BenchRow]:
        requests = [
            Request(
                role="teacher",
                messages=load("multifaceted/rubric").render(value=value),
                sampling=self.sampling,
                schema_=rubric_schema(),
            )
            for value in row.preference_set
        ]
        rubrics = yield from ask_all(
            requests, self.attempts, lambda _, completion: Rubric.of(read_json(completion, "bad_rubric"))
        )
        return BenchRow.child_of(row, self.name, reference_answer=row.output, rubrics=tuple(rubrics))
