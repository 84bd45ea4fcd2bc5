"""From example prompts, new ones that a model fails at, and pairs that train their proposer.

Source: docs/papers.md#reversegen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, file_source
from synthmill.flows.making.row_chain import RowChain
from synthmill.flows.methods._failing import FailingSettings, prompt_table
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.hashing import child_id
from synthmill.schemas.pools import Shots
from synthmill.schemas.rows import Dropped, Instruction, arrow_schema
from synthmill.schemas.settings import SourceSettings, StageSampling
from synthmill.storage.artifacts import Store
from synthmill.storage.published.by_columns import table_of
from synthmill.storage.published.configurations import Dataset, Figure
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.dedup.contamination import CleanInstructions
from synthmill.tasks.dedup.duplicates import UniqueInstructions
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.frames import FrameStage, even_parts
from synthmill.tasks.generators.failures import PromptSet
from synthmill.tasks.generators.self_rip import BEGIN, END, ShotSets, parse_prompt
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_each
from synthmill.tasks.tables.shaping import Explode
from synthmill.tasks.texts.prompt_faults import OVERLAP, check_prompt

PROMPT = "reversegen/propose"
MOST_PROPOSALS = 64


class Proposals(Recipe[Shots, PromptSet]):
    """Examples -> up to `count` different prompts that a proposer writes after them, each drawn by itself.

    Drops, where none is left after `attempts` tries: no_prompt, answers, repeats_itself, mixes_languages,
    shot_given_back.
    """

    name: ClassVar = "proposals"
    version: ClassVar = "2"
    roles: ClassVar = ("proposer",)
    adds_own_columns: ClassVar = True
    prompts: ClassVar = {PROMPT: ()}

    count: int = Field(4, ge=1, le=MOST_PROPOSALS)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.count * self.attempts

    def steps(self, row: Shots) -> Steps[PromptSet]:
        request = Request(role="proposer", messages=load(PROMPT).render(row=row), sampling=self.sampling, optional=True)
        first = row.number * MOST_PROPOSALS
        samples = [(first + place) * MOST_ATTEMPTS for place in range(self.count)]
        requests = [request.model_copy(update={"sample": sample}) for sample in samples]

        def parse(_: int, completion: Completion) -> str:
            return check_prompt(parse_prompt(completion), row.examples, OVERLAP)

        prompts, faults = yield from ask_each(requests, self.attempts, parse)
        different = tuple(dict.fromkeys(prompt for prompt in prompts if prompt))
        if not different:
            raise faults[min(faults)]
        return PromptSet.child_of(row, self.name, prompt=different, shown=row.examples, group=row.id)


class ProposerPairs(FrameStage):
    """Prompts with their verdicts -> pairs for the proposer: of those written after the same examples, the one that
    failed worst over the one that passed best, then the next ones. Drops: rejected_side, no_partner.
    """

    name: ClassVar = "proposer_pairs"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt", "mean_score", "failed", "shown", "group")
    adds: ClassVar = ("id", "parent_id", "prompt", "chosen", "rejected", "chosen_score", "rejected_score")

    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        pairs, paired = list[tuple[object, ...]](), dict[str, str]()
        for group in frame.sort("id").partition_by("group", maintain_order=True):
            failing = group.filter("failed").sort("mean_score", maintain_order=True).rows(named=True)
            passing = group.filter(~pl.col("failed")).sort("mean_score", descending=True, maintain_order=True)
            for worst, best in zip(failing, passing.rows(named=True), strict=False):
                question = load(PROMPT).render(row=Shots(id=worst["group"], examples=tuple(worst["shown"])))[-1]
                sides = [f"{BEGIN} {row['prompt']} {END}" for row in (worst, best)]
                pair_id = child_id(worst["id"], self.name)
                pairs.append((pair_id, worst["id"], question.content, *sides, worst["mean_score"], best["mean_score"]))
                paired |= {worst["id"]: "", best["id"]: "rejected_side"}
        texts = dict.fromkeys(self.adds[:5], pl.String)
        kept = pl.DataFrame(pairs, schema={**texts, **dict.fromkeys(self.adds[5:], pl.Float64)}, orient="row")
        reasons = {row_id: paired.get(row_id, "no_partner") for row_id in frame["id"]}
        return kept, [Dropped(id=row_id, reason=reason) for row_id, reason in reasons.items() if reason]


class ReverseGenSettings(FailingSettings):
    """One run of `reversegen`: examples -> proposals -> the target's answers -> failures, and pairs for the proposer.

    Roles: proposer, target, judge.
    """

    previewed: ClassVar = "count"
    writers: ClassVar = ("proposer",)

    source: SourceSettings
    count: int = Field(1000, ge=1, description="sets of examples, each for `per_set` proposals")
    shots: int = Field(3, ge=1, description="examples of a set; the paper's 3")
    per_set: int = Field(8, ge=1, le=MOST_PROPOSALS, description="proposals of a set; ours")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    proposals: StageSampling = StageSampling(top_p=0.98, max_tokens=512)


def plan(settings: ReverseGenSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in (*settings.writers, *settings.judging_roles)}
    settings = settings.model_copy(update={"engines": {**settings.engines, **roles}})
    source = file_source(store, settings.source, settings.rows_per_part)
    sampling = settings.sampling(settings.proposals)
    rows = RowChain(source.key, arrow_schema(Instruction))
    proposed = rows.then(
        roles,
        ShotSets(count=settings.count, shots=settings.shots, seed=settings.seed, rows_per_part=settings.rows_per_part),
        Proposals(sampling=sampling, count=settings.per_set, attempts=settings.attempts),
        Explode(column="prompt"),
    )
    cleaning = clean("reversegen", settings, store, rows.key, Comparison(CleanInstructions, UniqueInstructions))
    cleaned = rows.cleaned(cleaning)
    pairs = ProposerPairs(rows_per_part=settings.rows_per_part)
    failures = rows.then(roles, *settings.failing_stages(), pairs)
    return Plan(
        "reversegen",
        settings,
        store,
        source,
        [*proposed, *cleaned, *failures],
        lambda manifests: reversegen_dataset(store, manifests),
        trunk="failed_prompts",
        others=cleaning.sources,
    )


def reversegen_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """The failures as prompts, the others, and the proposer's pairs."""
    rows = stream_of(store, manifests["failed_prompts"])
    failures = rows.filter(pl.col("failed"))
    about = "a prompt that the target failed at: its mean score, and its lowest-scored answer"
    tables = {"failures": prompt_table(failures, about)}
    tables["passed"] = prompt_table(rows.filter(~pl.col("failed")), "a prompt that the target answered well")
    tables["proposer"] = table_of(stream_of(store, manifests["proposer_pairs"]))
    counts = f"{failures.height:,} of {rows.height:,} prompts failed ({failures.height / max(1, rows.height):.0%})"
    return Dataset(
        "Prompts that a model fails at",
        "Prompts that a proposer wrote and a target model failed at, and pairs that train the proposer to find more.",
        tables,
        figures=[Figure.lines("Failures", [counts]), score_figure(rows)],
    )


def score_figure(rows: RowStream) -> Figure:
    """How many prompts have each mean score, rounded down."""
    counts = rows.frame(["mean_score"])["mean_score"].floor().value_counts().sort("mean_score")
    return Figure("Mean scores", ("from", "prompts"), tuple((f"{low:g}", f"{n:,}") for low, n in counts.rows()))
