"""From a few prompts, many new ones, written after six of them and two that were written before, in rounds.

Source: docs/papers.md#self-instruct.
"""

from typing import ClassVar, Literal

from pydantic import Field

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods._new_prompts import Manifests, counts_of, plan_prompts, resolved_roles
from synthmill.flows.methods.preferences.settings import KEYWORDS
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.settings import ENGINES, EngineSettings, SourceSettings, StageSampling
from synthmill.storage.plain_files.rows import INSTRUCTIONS
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.frames import Artifact
from synthmill.tasks.generators.novel_prompts import NovelPrompts
from synthmill.tasks.generators.written_prompts import MixedShots, WrittenPrompts
from synthmill.tasks.recipe import MOST_ATTEMPTS
from synthmill.tasks.running.job import Planned
from synthmill.tasks.tables.joining import Concat

ABOUT = "a prompt that a model wrote; `parents`: the examples that it was shown, `round`: of how many before it"


class SelfInstructSettings(PublishSettings):
    """One run of `self-instruct`: seeds -> rounds of new prompts, each unlike all before."""

    previewed: ClassVar = "count"

    source: SourceSettings = Field(description="the seeds; the paper's are 175, written by people")
    engines: dict[Literal["teacher"], EngineSettings] = ENGINES
    count: int = Field(1000, ge=1, description="prompts to ask for; each is a call")
    per_round: int = Field(250, ge=1, description="prompts of a round; later rounds are shown those of earlier ones")
    seeds: int = Field(6, ge=1, description="of a set of examples; the paper's 6")
    written: int = Field(2, ge=0, description="prompts of earlier rounds in a set; the paper's 2")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    prompts: StageSampling = StageSampling(temperature=0.6, top_p=0.9)
    overlap: float = Field(0.7, gt=0, le=1, description="ROUGE-L from which a prompt is too like another; the paper's")
    fewest_words: int = Field(3, ge=1)
    most_words: int = Field(150, ge=1)
    keywords: tuple[str, ...] = Field(KEYWORDS, description="prompts with one of these words are dropped")
    ascii_start: bool = Field(True, description="drop prompts that begin with punctuation or a letter beyond ASCII")


def plan(settings: SelfInstructSettings) -> Plan:
    """Resolve the engine and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolved_roles(settings, store, "teacher")
    settings = settings.model_copy(update={"engines": roles})
    source = file_source(store, settings.source, settings.rows_per_part)
    rules = settings.model_dump(include={"overlap", "fewest_words", "most_words", "keywords", "ascii_start"})
    stages: list[Planned] = []
    earlier: list[Artifact] = []
    for number, begin in enumerate(range(0, settings.count, settings.per_round), 1):
        stages += chain(
            roles,
            source.key,
            MixedShots(
                count=min(settings.per_round, settings.count - begin),
                seeds=settings.seeds,
                written=settings.written,
                earlier=tuple(earlier),
                round=number,
                seed=settings.seed,
                rows_per_part=settings.rows_per_part,
            ),
            WrittenPrompts(sampling=settings.sampling(settings.prompts), attempts=settings.attempts),
            NovelPrompts(
                against=((INSTRUCTIONS.stage, source.key), *earlier), rows_per_part=settings.rows_per_part, **rules
            ),
        )
        earlier.append((NovelPrompts.name, stages[-1].key))
    if len(earlier) > 1:
        together = Concat(further=tuple(earlier[1:]), rows_per_part=settings.rows_per_part)
        stages += chain(roles, earlier[0][1], together)
    return plan_prompts("self-instruct", settings, store, source, stages, dataset)


def dataset(rows: RowStream, manifests: Manifests) -> Dataset:
    """The prompts that stay, and how many each round brought."""
    prompts = Table.of(rows, "prompts", ABOUT)
    figure = counts_of(rows, "Prompts of each round", "round")
    return Dataset("Self-Instruct", "Prompts that a model wrote after others.", {"prompts": prompts}, figures=[figure])
