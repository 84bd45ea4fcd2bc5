"""New prompts from examples: a few seeds, and a few prompts that were written in earlier rounds.

Source: docs/papers.md#self-instruct, #alma.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from synthmill.schemas.calls import Request
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Dropped, Row
from synthmill.storage.artifacts import Store, read_artifact, read_manifest
from synthmill.tasks.asking.ask import first_draw
from synthmill.tasks.asking.dealing import Words, mixed, words_of
from synthmill.tasks.frames import Artifact, Artifacts, FrameStage, even_parts, frame_schema
from synthmill.tasks.generators.self_rip import clip_example
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.texts.prompt_faults import marked_prompt


class ShotSet(Row):
    """What one new prompt is written after. parents: ids of the examples; number: of the set within its round."""

    examples: tuple[str, ...]
    parents: tuple[str, ...]
    round: int
    number: int


class WrittenPrompt(Question):
    """A prompt that a model wrote after examples. parents: their ids."""

    parents: tuple[str, ...] = ()
    round: int = 0


class MixedShots(FrameStage):
    """Seeds -> `count` sets of examples: `seeds` of them (or, by hash, up to `most_seeds`), and `written` prompts of
    the steps `earlier`. Where there are too few of those, seeds stand in.

    A set draws the prompts whose ids have the lowest hashes beside its number, so a prompt that is added or goes
    changes only the sets that it is in. Drops: not_drawn, for seeds that lead no set.
    """

    name: ClassVar = "mixed_shots"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt")
    adds: ClassVar = tuple(ShotSet.model_fields)

    count: int = Field(1000, ge=1)
    seeds: int = Field(6, ge=1)
    most_seeds: int | None = Field(None, description="a set has `seeds` to `most_seeds` of them; default: `seeds`")
    written: int = Field(2, ge=0)
    earlier: Artifacts = ()
    round: int = Field(1, ge=1)
    seed: int = 0
    rows_per_part: int = Field(256, ge=1)

    @model_validator(mode="after")
    def is_a_range(self) -> "MixedShots":
        if self.most_seeds is not None and self.most_seeds < self.seeds:
            raise ValueError(f"most_seeds is {self.most_seeds}, below seeds ({self.seeds}); raise it")
        return self

    def others(self) -> tuple[Artifact, ...]:
        return self.earlier

    def rows_per_row(self) -> int:
        return self.count

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        seeds = frame.select("id", "prompt")
        every = pl.concat([seeds, *(prompt_rows(Store(store), artifact) for artifact in self.earlier)])
        ids, prompts, words = every["id"].to_list(), every["prompt"].to_list(), words_of(every["id"])
        sets = []
        for number in range(self.count if seeds.height else 0):
            key = int.from_bytes(digest(["shots", self.seed, self.round, number], size=8))
            written = seeds.height + lowest(words[seeds.height :], key, self.written)
            wanted = self.seeds + self.written - len(written)
            if self.most_seeds is not None:
                wanted += key % (self.most_seeds - self.seeds + 1)
            seed_shots = lowest(words[: seeds.height], key, wanted)
            parent = ids[seed_shots[0]]
            shots = np.concatenate([seed_shots, written])
            shots = shots[lowest(words[shots], key ^ 1, len(shots))]  # seeds and written ones in any order
            sets.append(
                {
                    "id": child_id(parent, f"shots-{self.round}-{number}"),
                    "parent_id": parent,
                    "examples": [clip_example(prompts[place]) for place in shots],
                    "parents": [ids[place] for place in shots],
                    "round": self.round,
                    "number": number,
                }
            )
        leads = {row["parent_id"] for row in sets}
        drops = [Dropped(id=row, reason="not_drawn") for row in seeds["id"] if row not in leads]
        return pl.DataFrame(sets, schema=frame_schema(ShotSet)), drops


def prompt_rows(store: Store, artifact: Artifact) -> pl.DataFrame:
    """Ids and prompts of another step's rows."""
    table = read_artifact(store, read_manifest(store.manifest_path(*artifact)), ("id", "prompt"))
    return pl.DataFrame(table).select("id", "prompt")


def lowest(words: Words, key: int, count: int) -> NDArray[np.intp]:
    """The places of the `count` words with the lowest hashes beside a key; all where there are fewer."""
    hashes = mixed(words ^ np.uint64(key))
    places = np.argpartition(hashes, count - 1)[:count] if 0 < count < len(hashes) else np.arange(len(hashes))
    return np.asarray(places[np.argsort(hashes[places])][:count])


class WrittenPrompts(Recipe[ShotSet, WrittenPrompt]):
    """A set of examples -> one new prompt. Drops, after `attempts` tries, what is no prompt (prompt_faults.py)."""

    name: ClassVar = "written_prompts"
    version: ClassVar = "3"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"self_instruct/new_prompt": ()}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    source: str = "self-instruct"
    role: str = Field("teacher", min_length=1)

    def needs_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: ShotSet) -> Steps[WrittenPrompt]:
        request = Request(
            role=self.role,
            messages=load("self_instruct/new_prompt").render(row=row),
            sampling=self.sampling,
            sample=first_draw(row.id),  # few seeds may give the same set twice
        )
        prompt = yield from ask_until(request, self.attempts, lambda answer: marked_prompt(answer, row.examples))
        return WrittenPrompt.child_of(row, self.name, prompt=prompt, source=self.source)
