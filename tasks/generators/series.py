"""Series of prompts, each unlike those before it, by words alone. Source: docs/papers.md#steer."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id
from synthmill.schemas.pools import Shots
from synthmill.schemas.rows import Dropped
from synthmill.tasks.cores import Array
from synthmill.tasks.generators.failures import PromptSet
from synthmill.tasks.generators.self_rip import parse_prompt
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_each
from synthmill.tasks.texts.prompt_faults import check_prompt
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed_whole


class PromptSeries(Recipe[Shots, PromptSet]):
    """Examples -> up to `length` prompts, one after the other. Each is asked for with the `negatives` latest of its
    series, which it must not be like; one with a ROUGE-L of at least `overlap` with an example or with any of the
    series is refused. A prompt that fails all attempts is left out.

    Drops, where none is left: no_prompt, answers, repeats_itself, mixes_languages, shot_given_back.
    """

    name: ClassVar = "prompt_series"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"steer/series": ("negatives",)}

    length: int = Field(8, ge=1)
    negatives: int = Field(8, ge=0, description="shown; 0 shows none, to compare")
    overlap: float = Field(0.7, gt=0, le=1)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.length * self.attempts

    def steps(self, row: Shots) -> Steps[PromptSet]:
        prompts, fault, template = list[str](), Drop("no_prompt"), load("steer/series")

        def parse(_: int, completion: Completion) -> str:
            return check_prompt(parse_prompt(completion), (*row.examples, *prompts), self.overlap)

        for place in range(self.length):
            negatives = prompts[len(prompts) - min(self.negatives, len(prompts)) :]
            request = Request(
                role="teacher",
                messages=template.render(row=row, negatives=negatives),
                sampling=self.sampling,
                sample=(row.number * self.length + place) * MOST_ATTEMPTS,
                optional=True,
            )
            [prompt], faults = yield from ask_each([request], self.attempts, parse)
            if prompt:
                prompts.append(prompt)
            else:
                fault = faults[0]
        if not prompts:
            raise fault
        return PromptSet.child_of(row, self.name, prompt=tuple(prompts), shown=row.examples, group=row.id)


class SeriesMeasures(EmbeddingStage):
    """Series -> a row per prompt, with its `place`, `coherence` (its mean cosine with its examples), `likeness` (the
    largest cosine with an earlier prompt of its series; null for the first). Drops: empty_series.
    """

    name: ClassVar = "series_measures"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "shown", "group")
    adds: ClassVar = ("id", "parent_id", "prompt", "group", "place", "coherence", "likeness")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows = list[tuple[Any, ...]]()
        for row_id, prompts, examples, group in frame.select(self.needs).rows():
            vectors = embed_whole(self.embedder, [*prompts, *examples], store)
            measures = measured(vectors[: len(prompts)], vectors[len(prompts) :])
            rows += [
                (child_id(row_id, place), row_id, prompt, group, place, *of_prompt)
                for place, (prompt, of_prompt) in enumerate(zip(prompts, measures, strict=True))
            ]
        kinds = (*[pl.String] * 4, pl.Int64, pl.Float64, pl.Float64)
        drops = [
            Dropped(id=row_id, reason="empty_series")
            for row_id, prompts in frame.select("id", "prompt").rows()
            if not prompts
        ]
        return pl.DataFrame(rows, schema=dict(zip(self.adds, kinds, strict=True)), orient="row"), drops


def measured(prompts: Array, examples: Array) -> list[tuple[float, float | None]]:
    """(coherence, likeness) of each prompt of a series. prompts, examples: unit vectors, (texts, dimensions)."""
    coherence = (prompts @ examples.T).mean(axis=1) if len(examples) else np.zeros(len(prompts))
    cosines = prompts @ prompts.T
    likeness = [None, *(float(cosines[place, :place].max()) for place in range(1, len(prompts)))]
    return list(zip(map(float, coherence), likeness, strict=False))
