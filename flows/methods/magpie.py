"""Prompts that a model writes when nothing but the beginning of a user's turn stands before it, with responses.

Source: docs/papers.md#magpie.
"""

from typing import ClassVar, Literal

from pydantic import Field

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.reading import rows_from_nothing
from synthmill.flows.making.row_chain import RowChain
from synthmill.flows.methods._new_prompts import (
    Manifests,
    as_chats,
    counts_of,
    plan_prompts,
    resolved_roles,
)
from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Row
from synthmill.schemas.settings import ENGINES, EngineSettings, StageSampling
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.asking.ask import first_draw
from synthmill.tasks.generators.novel_prompts import NovelPrompts
from synthmill.tasks.generators.rated_prompts import Difficulty, Quality, RatePrompts, RatingLimits
from synthmill.tasks.generators.respond import Respond
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps
from synthmill.tasks.texts.prompt_faults import check_prompt

ABOUT = "a prompt that the model wrote in a user's place, and its response"


class OpenTurns(Recipe[Row, Question]):
    """A row from nothing -> the prompt that a model writes in a user's place.

    Drops, after `attempts` draws: cut_turn, where it did not end, and what is no prompt (prompt_faults.py). A draw is
    not told the fault of the one before: it would stand in the user's turn.
    """

    name: ClassVar = "open_turns"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)

    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0)
    system: str = Field("", description="the system message before the turn, for prompts of one domain")
    begins: str = Field("", description="how each prompt begins")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Row) -> Steps[Question]:
        system = (Message(role="system", content=self.system),) if self.system else ()
        messages = (*system, Message(role="user", content=self.begins))
        request = Request(
            role="teacher", messages=messages, sampling=self.sampling, open_turn=True, sample=first_draw(row.id)
        )
        fault = Drop("no_prompt")
        for attempt in range(self.attempts):
            draw = {"sample": request.sample + attempt, "asked_again": attempt > 0}
            [completion] = yield [request.model_copy(update=draw)]
            try:
                return Question.child_of(row, self.name, prompt=self.prompt_in(completion), source="magpie")
            except Drop as drop:
                fault = drop
        raise fault

    def prompt_in(self, completion: Completion) -> str:
        """The prompt that a completion ends. Raises Drop."""
        if completion.error:
            raise Drop(completion.error)
        if ending_of(completion.finish_reason) == "length":
            raise Drop("cut_turn: the user's turn did not end within max_tokens")
        prompt = (self.begins + completion.text).strip()
        check_prompt(prompt, (self.system,))
        return prompt


class MagpieSettings(PublishSettings):
    """One run of `magpie`: nothing -> prompts -> ratings -> the good ones -> responses."""

    previewed: ClassVar = "count"

    engines: dict[Literal["teacher", "judge"], EngineSettings] = ENGINES
    count: int = Field(1000, ge=1, description="prompts to draw; the paper's released sets began with millions")
    system: str = Field("", description="the system message before the turn, for prompts of one domain")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    turns: StageSampling = StageSampling(temperature=1.0, top_p=1.0)
    stop: tuple[str, ...] = Field((), description="texts that end a user's turn where the model's own token does not")
    least_quality: Quality = "good"
    least_difficulty: Difficulty = "very easy"
    overlap: float = Field(0.9, gt=0, le=1, description="ROUGE-L from which a prompt is too like an earlier one")
    responses: StageSampling = StageSampling(temperature=0.0, top_p=1.0, max_tokens=2048)


def plan(settings: MagpieSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolved_roles(settings, store, "teacher", "judge")
    settings = settings.model_copy(update={"engines": roles})
    source, columns = rows_from_nothing(store, "", settings.count, settings.rows_per_part)
    turns = settings.sampling(settings.turns).model_copy(update={"stop": settings.stop})
    cold = RatePrompts().sampling.model_copy(update={"seed": settings.seed})
    stages = RowChain(source.key, columns).then(
        roles,
        OpenTurns(sampling=turns, system=settings.system, attempts=settings.attempts),
        NovelPrompts(
            overlap=settings.overlap,
            fewest_words=1,
            most_words=100_000,
            ascii_start=False,
            programs=True,
            rows_per_part=settings.rows_per_part,
        ),
        RatePrompts(sampling=cold, attempts=settings.attempts),
        RatingLimits(least_quality=settings.least_quality, least_difficulty=settings.least_difficulty),
        Respond(sampling=settings.sampling(settings.responses)),
    )
    return plan_prompts("magpie", settings, store, source, stages, dataset, texts=("prompt", "response"))


def dataset(rows: RowStream, manifests: Manifests) -> Dataset:
    """The prompts that stay with their responses, and of what kind they are."""
    chats = Table.of(rows.map(as_chats), "conversations", ABOUT)
    figures = [counts_of(rows, "What is asked", "category"), counts_of(rows, "How hard it is", "difficulty", "quality")]
    return Dataset("Magpie", "Prompts that a model wrote in a user's place.", {"sft": chats}, figures=figures)
