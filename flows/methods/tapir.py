"""Prompts on which a student stays behind its teacher, more like them in balanced types of tasks, from easy to hard.

Source: docs/papers.md#tapir.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field, field_validator

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods._new_prompts import Manifests, as_chats, counts_of, plan_prompts, resolved_roles
from synthmill.schemas.calls import Request
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.rows import Dropped, Row
from synthmill.schemas.settings import ENGINES, EngineSettings, SourceSettings, StageSampling
from synthmill.storage.plain_files.rows import INSTRUCTIONS
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.engines.engine import engine_name
from synthmill.tasks.frames import FrameStage, even_parts, frame_schema
from synthmill.tasks.generators.novel_prompts import NovelPrompts
from synthmill.tasks.generators.rated_prompts import CATEGORIES
from synthmill.tasks.generators.self_rip import clip_example
from synthmill.tasks.generators.teacher_gaps import CurriculumRounds, HardPrompts, TeacherGaps, TypedPrompt
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.tables.joining import Concat
from synthmill.tasks.texts.prompt_faults import marked_prompt

RATIOS = {name: 2.0 if name in ("math", "coding", "reasoning") else 1.0 for name in CATEGORIES}


class Expansion(Row):
    """A hard prompt after which another one is to be written; number: of those after the same prompt."""

    example: str
    task_type: str
    number: int


class BalancedTasks(FrameStage):
    """Hard prompts -> `count` expansions, in the shares that `ratios` gives the types of task that there are. Within a
    type, each prompt leads as many as any other, give or take one. Drops: not_drawn, for prompts that lead none.
    """

    name: ClassVar = "balanced_tasks"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt", "task_type")
    adds: ClassVar = tuple(Expansion.model_fields)

    count: int = Field(1000, ge=1)
    ratios: dict[str, float] = Field(RATIOS, description="type -> weight; 0 leaves a type out")
    seed: int = 0
    rows_per_part: int = Field(256, ge=1)

    def rows_per_row(self) -> int:
        return self.count

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        prompts: dict[str, list[tuple[str, str]]] = {}
        for row_id, prompt, task_type in frame.select(self.needs).iter_rows():
            prompts.setdefault(task_type, []).append((row_id, prompt))
        weights = {name: self.ratios.get(name, 0.0) for name in sorted(prompts)}
        rows = []
        for task_type, count in shares_of(self.count, weights).items():
            leads = sorted(prompts[task_type], key=lambda row: digest(["lead", self.seed, row[0]]))
            for n in range(count):
                (row_id, prompt), number = leads[n % len(leads)], n // len(leads)
                expansion = {"example": clip_example(prompt), "task_type": task_type, "number": number}
                rows.append({"id": child_id(row_id, f"expansion-{number}"), "parent_id": row_id, **expansion})
        leading = {row["parent_id"] for row in rows}
        dropped = [Dropped(id=row, reason="not_drawn") for row in frame["id"] if row not in leading]
        return pl.DataFrame(rows, schema=frame_schema(Expansion)), dropped


def shares_of(count: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`count` in the shares of weights, by largest remainder; nothing where there is no weight."""
    total = sum(weights.values())
    exact = {name: count * weight / total if total else 0.0 for name, weight in weights.items()}
    shares = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: count - sum(shares.values()) if total else 0]:
        shares[name] += 1
    return shares


class ExpandTasks(Recipe[Expansion, TypedPrompt]):
    """A hard prompt -> another one of its type. Drops, after `attempts` tries, what is no prompt (prompt_faults.py)."""

    name: ClassVar = "expand_tasks"
    version: ClassVar = "3"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"tapir/expand": ()}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Expansion) -> Steps[TypedPrompt]:
        request = Request(
            role="teacher",
            messages=load("tapir/expand").render(row=row),
            sampling=self.sampling,
            sample=row.number * MOST_ATTEMPTS,
        )
        prompt = yield from ask_until(request, self.attempts, lambda answer: marked_prompt(answer, (row.example,)))
        return TypedPrompt.child_of(row, self.name, prompt=prompt, source="tapir", parents=(row.parent_id,))


class TapirSettings(PublishSettings):
    """One run of `tapir`: prompts -> those that are hard for the student -> more like them -> rounds."""

    source: SourceSettings
    engines: dict[Literal["teacher", "student", "judge"], EngineSettings] = ENGINES
    count: int = Field(1000, ge=1, description="prompts to write after the hard ones; each is a call")
    least_gap: float = Field(2.0, description="judge's points, of 10, that the student is behind on a hard prompt")
    ratios: dict[str, float] = Field(
        RATIOS, min_length=1, description="types of task, with their shares of new prompts"
    )
    rounds: int = Field(3, ge=1)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    answers: StageSampling = StageSampling(temperature=0.7, max_tokens=1024)
    prompts: StageSampling = StageSampling()
    overlap: float = Field(0.7, gt=0, le=1, description="ROUGE-L from which a prompt is too like another")

    @field_validator("ratios")
    @classmethod
    def are_weights(cls, ratios: dict[str, float]) -> dict[str, float]:
        if min(ratios.values()) < 0 or not any(ratios.values()):
            raise ValueError(f"{ratios} are no shares; expected numbers from 0 on, and one above it")
        return ratios


def plan(settings: TapirSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolved_roles(settings, store, "teacher", "student", "judge")
    if (name := engine_name(roles["teacher"])) == engine_name(roles["student"]):
        raise InputError(
            f"teacher and student are both {name}, so neither is behind; set engines.student to another model"
        )
    settings = settings.model_copy(update={"engines": roles})
    source, rows = file_source(store, settings.source, settings.rows_per_part), settings.rows_per_part
    gaps = TeacherGaps(
        sampling=settings.sampling(settings.answers), task_types=tuple(settings.ratios), attempts=settings.attempts
    )
    hard = HardPrompts(least_gap=settings.least_gap)
    seeds = chain(roles, source.key, gaps, hard)
    known = (INSTRUCTIONS.stage, source.key)
    expansions = chain(
        roles,
        seeds[-1].key,
        BalancedTasks(count=settings.count, ratios=settings.ratios, seed=settings.seed, rows_per_part=rows),
        ExpandTasks(sampling=settings.sampling(settings.prompts), attempts=settings.attempts),
        NovelPrompts(
            overlap=settings.overlap,
            most_words=1000,
            ascii_start=False,
            programs=True,
            against=(known,),
            rows_per_part=rows,
        ),
        gaps,
        hard,
    )
    together = Concat(further=((HardPrompts.name, expansions[-1].key),), rows_per_part=rows)
    last = chain(roles, seeds[-1].key, together, CurriculumRounds(rounds=settings.rounds, rows_per_part=rows))
    return plan_prompts(
        "tapir", settings, store, source, [*seeds, *expansions, *last], dataset, texts=("prompt", "response")
    )


def dataset(rows: RowStream, manifests: Manifests) -> Dataset:
    """The hard prompts with the teacher's responses, by round."""
    about = "a prompt that is hard for the student, with the teacher's response; train the rounds in their order"
    figures = [counts_of(rows, "Types of task", "task_type"), counts_of(rows, "Rounds, the easiest first", "round")]
    chats = Table.of(rows.map(as_chats), "conversations", about)
    return Dataset("TAPIR", "Prompts on which a student stays behind its teacher.", {"sft": chats}, figures=figures)
