"""Instructions and responses that each combine random skills, from topics or from instructions at hand.

Source: docs/papers.md#instruct-skillmix.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, Source, chain, file_source, rows_source
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, content_hash
from synthmill.schemas.rows import Dropped, Instruction, Row, Thinking, arrow_schema
from synthmill.schemas.settings import ENGINES, EngineSettings, SourceSettings, StageSampling
from synthmill.schemas.texts import normalised, one_line
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import KEPT, NO_THOUGHTS, answer_message, message, stream_of
from synthmill.tasks.dedup.contamination import CleanRows
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.frames import FrameStage, even_parts
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until, read_json
from synthmill.tasks.running.job import Planned

LISTS = "topic_lists"


class TopicList(Row):
    """The n-th list of topics that is asked for."""

    number: int


class Skills(Row):
    """Skills and types of query: of a topic, or those that an instruction takes. topics: what they are of."""

    topics: tuple[str, ...] = ()
    skills: tuple[str, ...]
    query_types: tuple[str, ...]


class Mix(Row):
    """What one instruction has to combine."""

    skills: tuple[str, ...]
    query_type: str


class Example(Row):
    """An instruction that combines skills, and its response."""

    prompt: str
    response: str
    skills: tuple[str, ...]
    query_type: str
    finish_reason: str = ""
    reasoning: Thinking = None


def text_list(name: str, fewest: int, most: int) -> dict[str, Any]:
    """A JSON schema for an object of one list of short texts."""
    texts = {"type": "array", "items": {"type": "string", "maxLength": 120}, "minItems": fewest, "maxItems": most}
    return {"type": "object", "properties": {name: texts}, "required": [name], "additionalProperties": False}


def read_list(completion: Completion, name: str, fewest: int = 1) -> tuple[str, ...]:
    """The different texts of a list in an answer. Raises Drop where there are too few."""
    listed = read_json(completion, f"bad_{name}").get(name)
    texts = [one_line(text) for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
    different = tuple({normalised(text): text for text in texts if text}.values())
    if len(different) < fewest:
        raise Drop(f"bad_{name}: it listed {len(different)} {name}; list at least {fewest} different ones")
    return different


class TopicSkills(Recipe[TopicList, Skills]):
    """Numbers of lists -> for each, topics, then skills for them, then types of query: from the model alone (SDA).

    Drops: bad_topics, bad_skills, bad_query_types.
    """

    name: ClassVar = "topic_skills"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {
        "skillmix/topics": ("count",),
        "skillmix/skills": ("topics", "count"),
        "skillmix/query_types": ("topics", "count"),
    }

    count: int = Field(10, ge=1, description="topics, skills and types of query of a list")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return 3 * self.attempts

    def steps(self, row: TopicList) -> Steps[Skills]:
        first = row.number * MOST_ATTEMPTS  # every list is another draw of the same question

        def listed(name: str, **variables: Any) -> Any:
            request = Request(
                role="teacher",
                messages=load(f"skillmix/{name}").render(row=row, count=self.count, **variables),
                sampling=self.sampling,
                schema_=text_list(name, 1, self.count),
                sample=first,
            )
            return ask_until(request, self.attempts, lambda completion: read_list(completion, name))

        topics = yield from listed("topics")
        skills = yield from listed("skills", topics=topics)
        query_types = yield from listed("query_types", topics=topics)
        return Skills.child_of(row, self.name, topics=topics, skills=skills, query_types=query_types)


class DataSkills(Recipe[Instruction, Skills]):
    """Instruction -> the skills that answering it takes, and its type of query: from data (SDD). Drops: bad_skills."""

    name: ClassVar = "data_skills"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"skillmix/data_skills": ()}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Instruction) -> Steps[Skills]:
        schema = text_list("skills", 1, 5)
        schema["properties"]["query_type"] = {"type": "string", "maxLength": 120}
        schema["required"].append("query_type")
        request = Request(
            role="teacher",
            messages=load("skillmix/data_skills").render(row=row),
            sampling=self.sampling,
            schema_=schema,
        )

        def parse(completion: Completion) -> Skills:
            skills = read_list(completion, "skills")
            query_type = read_json(completion, "bad_skills").get("query_type")
            if not isinstance(query_type, str) or not query_type.strip():
                raise Drop("bad_skills: it named no query_type")
            return Skills.child_of(row, self.name, skills=skills, query_types=(one_line(query_type),))

        return (yield from ask_until(request, self.attempts, parse))


class SkillMixes(FrameStage):
    """Lists of skills -> `count` mixes of `k` different skills and a type of query, drawn from those of all lists. Each
    list leads as many mixes as any other, give or take one: the first skill is one of its own. Drops: not_drawn.
    """

    name: ClassVar = "skill_mixes"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "skills", "query_types")
    adds: ClassVar = tuple(Mix.model_fields)

    count: int = Field(4000, ge=1)
    k: int = Field(2, ge=1, description="skills of a mix")
    seed: int = 0
    rows_per_part: int = Field(256, ge=1)

    def rows_per_row(self) -> int:
        return self.count

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        lists = frame.sort("id").select("id", "skills", "query_types").rows()
        skills = sorted({skill for _, of_list, _ in lists for skill in of_list})
        query_types = sorted({query_type for *_, of_list in lists for query_type in of_list})
        random.Random(f"lists {self.seed}").shuffle(lists)
        mixes = []
        for n in range(self.count if lists else 0):
            parent, own, _ = lists[n % len(lists)]
            draw = random.Random(f"mix {self.seed} {parent} {n // len(lists)}")
            first = draw.choice(own)
            other_skills = draw.sample([skill for skill in skills if skill != first], min(self.k, len(skills)) - 1)
            mix = {"skills": [first, *other_skills], "query_type": draw.choice(query_types)}
            mixes.append({"id": child_id(parent, f"mix-{n // len(lists)}"), "parent_id": parent, **mix})
        schema = pl.DataFrame(arrow_schema(Mix).empty_table()).schema
        return pl.DataFrame(mixes, schema=schema), [
            Dropped(id=parent, reason="not_drawn") for parent, *_ in lists[self.count :]
        ]


class Examples(Recipe[Mix, Example]):
    """Mix -> an instruction of that type that needs those skills, and a response to it, in one answer.

    Drops: bad_example, and too_short for a response of fewer words than `fewest_words` (a shirker).
    """

    name: ClassVar = "skillmix_examples"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"skillmix/example": ()}

    fewest_words: int = Field(30, ge=0)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Mix) -> Steps[Example]:
        texts = {name: {"type": "string", "minLength": 1} for name in ("instruction", "response")}
        request = Request(
            role="teacher",
            messages=load("skillmix/example").render(row=row),
            sampling=self.sampling,
            schema_={"type": "object", "properties": texts, "required": list(texts), "additionalProperties": False},
        )

        def parse(completion: Completion) -> Example:
            fields = read_json(completion, "bad_example")
            prompt, response = (fields.get(name) for name in texts)
            if not isinstance(prompt, str) or not isinstance(response, str) or not prompt.strip():
                raise Drop("bad_example: it had no texts `instruction` and `response`")
            if len(response.split()) < self.fewest_words:
                raise Drop(f"too_short: the response had {len(response.split())} words; write a whole one")
            return Example.child_of(
                row,
                self.name,
                prompt=prompt.strip(),
                response=response.strip(),
                finish_reason=completion.finish_reason,
                reasoning=completion.reasoning or None,
            )

        return (yield from ask_until(request, self.attempts, parse))


class SkillMixSettings(PublishSettings):
    """One run of `skillmix`: topics (or instructions) -> skills -> mixes -> instructions with responses."""

    previewed: ClassVar = "count"

    source: SourceSettings | None = Field(None, description="instructions to take skills from; default: topics")
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    lists: int = Field(20, ge=1, description="lists of topics that are asked for, where there is no source")
    per_list: int = Field(10, ge=1, description="topics, skills and types of query of a list")
    count: int = Field(4000, ge=1, description="mixes; the paper's 4,000")
    k: int = Field(2, ge=1, description="skills of a mix; the paper's 2")
    fewest_words: int = Field(30, ge=0, description="of a response; 0 keeps shirkers, to measure what they do")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    skills: StageSampling = StageSampling()
    examples: StageSampling = StageSampling(max_tokens=2048)


def plan(settings: SkillMixSettings) -> Plan:
    """Resolve the engine and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {"teacher": resolve(settings.engine("teacher"), store)}
    settings = settings.model_copy(update={"engines": roles})
    source, first = skill_source(settings, store)
    stages = chain(
        roles,
        source.key,
        first,
        SkillMixes(count=settings.count, k=settings.k, seed=settings.seed, rows_per_part=settings.rows_per_part),
        Examples(
            sampling=settings.sampling(settings.examples),
            fewest_words=settings.fewest_words,
            attempts=settings.attempts,
        ),
    )
    comparison = Comparison(CleanRows, UniqueRows, texts=("prompt", "response"))
    cleaning = clean("skillmix", settings, store, stages[-1].key, comparison)
    steps: Sequence[Planned] = [*stages, *cleaning.stages]
    return Plan(
        "skillmix",
        settings,
        store,
        source,
        steps,
        lambda manifests: skillmix_dataset(store, manifests),
        trunk="unique_rows",
        others=cleaning.sources,
    )


def skill_source(settings: SkillMixSettings, store: Store) -> tuple[Source, TopicSkills | DataSkills]:
    """Where skills come from, and the stage that asks for them."""
    sampling, attempts = settings.sampling(settings.skills), settings.attempts
    if settings.source:
        source = file_source(store, settings.source, settings.rows_per_part)
        return source, DataSkills(sampling=sampling, attempts=attempts)
    lists = [TopicList(id=content_hash([LISTS, number]), number=number) for number in range(settings.lists)]
    looks = f"{len(lists)} lists of topics, from the model alone"
    return rows_source(store, LISTS, lists, looks), TopicSkills(
        sampling=sampling, count=settings.per_list, attempts=attempts
    )


def skillmix_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """The kept examples as conversations, and how often each skill was combined."""
    examples = stream_of(store, manifests["unique_rows"]).filter(KEPT)
    about = "an instruction that combines skills, and its response"
    return Dataset(
        "Instruct-SkillMix",
        "Instructions that each combine random skills, with a response.",
        {"sft": Table.of(examples.map(conversations), "conversations", about)},
        figures=[Figure("Skills that are combined most", ("skill", "rows"), skill_counts(examples))],
    )


def conversations(examples: pl.DataFrame) -> pl.DataFrame:
    messages = pl.concat_list(
        message("user", "prompt", NO_THOUGHTS if "reasoning" in examples.columns else None),
        answer_message("response", "reasoning", examples.columns),
    )
    return examples.select("id", "parent_id", "skills", "query_type", "finish_reason", messages=messages)


def skill_counts(examples: RowStream, most: int = 20) -> tuple[tuple[str, str], ...]:
    counts = examples.frame(["skills"])["skills"].explode(empty_as_null=False).value_counts(sort=True)
    ranked = counts.sort(["count", "skills"], descending=[True, False]).head(most)
    return tuple((skill, f"{count:,}") for skill, count in ranked.rows())
