"""Prompts made harder round by round, deeper and broader, with responses; what an evolution spoils is eliminated.

Source: docs/papers.md#evol-instruct.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods._new_prompts import Manifests, as_chats, counts_of, plan_prompts, resolved_roles
from synthmill.schemas.calls import Completion, Frozen, Message, Request, Sampling
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.rows import Dropped, Instruction, Row, Thinking
from synthmill.schemas.settings import ENGINES, EngineSettings, SourceSettings, StageSampling
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import stream_of, thinks
from synthmill.tasks.frames import FrameStage, frame_schema
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.texts.prompt_faults import marked_prompt
from synthmill.tasks.texts.words import words_of

Operation = Literal["deepen", "concretise", "constrain", "reason", "broaden"]
OPERATIONS: tuple[Operation, ...] = ("deepen", "concretise", "constrain", "reason", "broaden")
EQUAL = ("Equal", "Not Equal")
COPIED = re.compile(r"(given|rewritten|created|new) prompt|#(given|rewritten|created) prompt#", re.IGNORECASE)
MOST_WORDS_OF_REFUSAL = 80
STOP_WORDS = frozenset(
    words_of("a an and are as at be but by do for from i in is it me my no not of on or so that the this to was we you")
)


class Generation(Frozen):
    """One evolution of a prompt. level: how many steps deeper it is than the seed; fault: why it was eliminated."""

    round: int
    operation: str
    level: int
    prompt: str = ""
    response: str = ""
    finish_reason: str = ""
    fault: str = ""
    reasoning: Thinking = None


class Evolution(Instruction):
    """A prompt with what was made of it, round by round."""

    generations: tuple[Generation, ...]


class Evolved(Row):
    """A prompt that an evolution made, with a response. parents: the prompt that it was made of."""

    prompt: str
    system: str | None = None
    response: str
    finish_reason: str
    parents: tuple[str, ...]
    level: int
    round: int
    operation: str
    source: str = "evol-instruct"
    reasoning: Thinking = None


class Evolve(Recipe[Instruction, Evolution]):
    """Instruction -> `rounds` evolutions of it, each of the last one that survived, by an operation that its id draws.

    An evolution is eliminated, by name, where it is no prompt (prompt_faults.py) or copies words of the request
    (copied_request); where it is equal to what it was made of (no_gain); where the response is a short refusal
    (refused), or has nothing but stop words and punctuation (empty_response); or where an answer failed.
    """

    name: ClassVar = "evolve"
    version: ClassVar = "3"
    roles: ClassVar = ("teacher", "judge")
    prompts: ClassVar = {
        "evol_instruct/evolve": ("prompt", "operation"),
        "evol_instruct/broaden": ("prompt",),
        "evol_instruct/equal": ("before", "after"),
    }

    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=2048)
    rounds: int = Field(4, ge=1)
    operations: tuple[Operation, ...] = Field(OPERATIONS, min_length=1)
    seed: int = 0

    def requests_per_row(self) -> int:
        return 3 * self.rounds

    def steps(self, row: Instruction) -> Steps[Evolution]:
        prompt, level = row.prompt, 0
        generations: list[Generation] = []
        for number in range(1, self.rounds + 1):
            operation = self.operation(row, number)
            deeper = level + (operation != "broaden")
            generation = Generation(round=number, operation=operation, level=deeper)
            [written] = yield [self.request(operation, prompt, number)]
            try:
                evolved = read_evolved(written, prompt)
                verdict, response = yield [self.equality(prompt, evolved), self.question(row, evolved)]
                check_survives(verdict, response)
            except Drop as drop:
                generations.append(generation.model_copy(update={"fault": drop.reason}))
                continue
            answer = {"response": response.text.strip(), "finish_reason": response.finish_reason}
            thoughts = {"reasoning": response.reasoning or None}
            generations.append(generation.model_copy(update={"prompt": evolved, **answer, **thoughts}))
            prompt, level = evolved, deeper
        return Evolution.child_of(row, self.name, generations=tuple(generations))

    def operation(self, row: Instruction, number: int) -> Operation:
        draw = int.from_bytes(digest(["operation", self.seed, row.id, number], size=8))
        return self.operations[draw % len(self.operations)]

    def request(self, operation: Operation, prompt: str, number: int) -> Request:
        """What asks for an evolution. number: of the round, so that one that was eliminated is drawn anew."""
        if operation == "broaden":
            messages = load("evol_instruct/broaden").render(prompt=prompt)
        else:
            messages = load("evol_instruct/evolve").render(prompt=prompt, operation=operation)
        return Request(role="teacher", messages=messages, sampling=self.sampling, sample=number, optional=True)

    def equality(self, before: str, after: str) -> Request:
        messages = load("evol_instruct/equal").render(before=before, after=after)
        cold = Sampling(temperature=0.0, top_p=None, max_tokens=8, seed=self.sampling.seed)
        return Request(role="judge", messages=messages, sampling=cold, choice=EQUAL, optional=True)

    def question(self, row: Instruction, prompt: str) -> Request:
        system = (Message(role="system", content=row.system),) if row.system else ()
        messages = (*system, Message(role="user", content=prompt))
        return Request(role="teacher", messages=messages, sampling=self.sampling, optional=True)


def read_evolved(written: Completion, before: str) -> str:
    """The prompt of an answer. Raises Drop for none, for the words of before, and for one that copies the request's."""
    if written.error:
        raise Drop(written.error)
    evolved = marked_prompt(written, (before,))
    if COPIED.search(evolved) and not COPIED.search(before):
        raise Drop("copied_request: it has words of the request")
    if words_of(evolved) == words_of(before):
        raise Drop("no_gain: it has the same words as before")
    return evolved


def check_survives(verdict: Completion, response: Completion) -> None:
    """Raises Drop for an evolution that is to be eliminated: the paper's first three rules."""
    for completion in (verdict, response):
        if completion.error:
            raise Drop(completion.error)
    if verdict.text.strip().strip('".').casefold() == EQUAL[0].casefold():
        raise Drop("no_gain: it asks the same as before")
    words = words_of(response.text)
    if "sorry" in words and len(words) < MOST_WORDS_OF_REFUSAL:
        raise Drop("refused: the model cannot answer it")
    if not set(words) - STOP_WORDS:
        raise Drop("empty_response: nothing but stop words and punctuation")


class Generations(FrameStage):
    """Evolutions -> a row for each generation that survived. Drops: none_survived, with the faults."""

    name: ClassVar = "generations"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "parent_id", "system", "generations")
    adds: ClassVar = tuple(name for name in Evolved.model_fields if name != "reasoning")
    infers_columns: ClassVar = True

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows, drops = [], []
        for row_id, seed, system, generations in frame.select(self.needs).iter_rows():
            survivors = [generation for generation in generations if not generation["fault"]]
            if not survivors:
                faults = ", ".join(generation["fault"] for generation in generations)
                drops.append(Dropped(id=row_id, reason="none_survived", detail=faults))
            parent = seed
            for generation in survivors:
                child = child_id(row_id, f"round-{generation['round']}")
                own = {"id": child, "parent_id": row_id, "system": system, "parents": [parent]}
                rows.append({**own, "source": "evol-instruct", **generation})
                parent = child
        schema = frame_schema(Evolved, thinks(frame.schema["generations"]))
        return pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema), drops


class EvolInstructSettings(PublishSettings):
    """One run of `evol-instruct`: prompts -> rounds of evolutions with responses -> those that survive."""

    source: SourceSettings
    engines: dict[Literal["teacher", "judge"], EngineSettings] = ENGINES
    rounds: int = Field(4, ge=1, description="the paper's 4")
    operations: tuple[Operation, ...] = Field(OPERATIONS, min_length=1, description="each drawn as often as the others")
    evolve: StageSampling = StageSampling(temperature=1.0, top_p=0.95, max_tokens=2048)


def plan(settings: EvolInstructSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolved_roles(settings, store, "teacher", "judge")
    settings = settings.model_copy(update={"engines": roles})
    source = file_source(store, settings.source, settings.rows_per_part)
    evolve = Evolve(
        sampling=settings.sampling(settings.evolve),
        rounds=settings.rounds,
        operations=settings.operations,
        seed=settings.seed,
    )
    stages = chain(roles, source.key, evolve, Generations())

    def publish(rows: RowStream, manifests: Manifests) -> Dataset:
        generations = stream_of(store, manifests[Evolve.name]).frame(["generations"])
        return Dataset(
            "Evol-Instruct",
            "Prompts that a model made harder round by round, with responses.",
            {"sft": Table.of(rows.map(as_chats), "conversations", "a prompt that an evolution made, and a response")},
            figures=[counts_of(rows, "What survives", "operation", "level"), eliminated(generations)],
        )

    return plan_prompts("evol-instruct", settings, store, source, stages, publish, texts=("prompt", "response"))


def eliminated(evolutions: pl.DataFrame) -> Figure:
    """How many evolutions of each operation were eliminated, and why."""
    generations = evolutions["generations"].explode(empty_as_null=False).struct.unnest()
    counts = generations.filter(pl.col("fault") != "").group_by("operation", "fault").len("rows")
    ranked: Sequence[tuple[str, str, int]] = counts.sort("operation", "rows", "fault").rows()
    rows = tuple((operation, fault, f"{count:,}") for operation, fault, count in ranked)
    return Figure("What was eliminated", ("operation", "reason", "evolutions"), rows, text_columns=2)
