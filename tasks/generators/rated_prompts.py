"""How good and how hard prompts are, and of what kind, by a judge; and those that are good and hard enough.

Source: docs/papers.md#magpie, section 2.2.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Dropped, Instruction, Row
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until, read_json

QUALITIES = ("very poor", "poor", "average", "good", "excellent")
DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")
Quality = Literal["very poor", "poor", "average", "good", "excellent"]
Difficulty = Literal["very easy", "easy", "medium", "hard", "very hard"]
CATEGORIES = (
    *("information seeking", "reasoning", "planning", "editing", "coding", "math", "data analysis"),
    *("role playing", "creative writing", "advice seeking", "brainstorming", "others"),
)


class Rating(Row):
    """A row with what a judge says of its prompt."""

    quality: str
    difficulty: str
    category: str


def rating_schema() -> dict[str, Any]:
    scales = {"category": CATEGORIES, "difficulty": DIFFICULTIES, "quality": QUALITIES}
    fields = {name: {"type": "string", "enum": list(values)} for name, values in scales.items()}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


class RatePrompts(Recipe[Instruction, Rating]):
    """Prompt -> the same row with its `quality`, `difficulty` and `category`. Drops: bad_rating, after `attempts`."""

    name: ClassVar = "rate_prompts"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"magpie/rate": ("categories", "difficulties", "qualities")}
    keeps_columns: ClassVar = True

    sampling: Sampling = Sampling(temperature=0.0, top_p=None, max_tokens=128)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Instruction) -> Steps[Rating]:
        request = Request(
            role="judge",
            messages=load("magpie/rate").render(
                row=row, categories=CATEGORIES, difficulties=DIFFICULTIES, qualities=QUALITIES
            ),
            sampling=self.sampling,
            schema_=rating_schema(),
        )

        def parse(completion: Completion) -> Rating:
            fields = read_json(completion, "bad_rating")
            values = {name: str(fields.get(name)).strip().casefold() for name in ("quality", "difficulty", "category")}
            for name, scale in (("quality", QUALITIES), ("difficulty", DIFFICULTIES), ("category", CATEGORIES)):
                if values[name] not in scale:
                    raise Drop(f"bad_rating: its {name} was {values[name]!r:.40}; name one of {', '.join(scale)}")
            return Rating(id=row.id, parent_id=row.parent_id, **values)

        return (yield from ask_until(request, self.attempts, parse))


class RatingLimits(FrameStage):
    """Rated rows -> those that are good and hard enough. Drops: low_quality, low_difficulty, with the rating."""

    name: ClassVar = "rating_limits"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "quality", "difficulty")

    least_quality: Quality = "good"
    least_difficulty: Difficulty = "very easy"

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        low = {
            "quality": QUALITIES[: QUALITIES.index(self.least_quality)],
            "difficulty": DIFFICULTIES[: DIFFICULTIES.index(self.least_difficulty)],
        }
        dropped = []
        for name, values in low.items():
            below = frame.filter(pl.col(name).is_in(values)).select("id", name)
            dropped += [Dropped(id=row, reason=f"low_{name}", detail=value) for row, value in below.iter_rows()]
            frame = frame.filter(~pl.col(name).is_in(values))
        return frame, dropped
