"""From three to five prompts, many; of their clusters a few each round; answers of several checkpoints, judged.

Source: docs/papers.md#alma.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import polars as pl
from pydantic import Field, SerializeAsAny, model_validator

from synthmill.flows.making.cleaning import open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods._new_prompts import Manifests, as_chats, counts_of
from synthmill.flows.methods.preferences import answers_of, in_own_units, plan_pool_stages, resolve_engines
from synthmill.flows.methods.preferences.dataset import preferences_dataset
from synthmill.flows.methods.preferences.rows import STAYS
from synthmill.flows.methods.preferences.settings import PoolAnswerSettings, PoolSettings
from synthmill.schemas.settings import SourceSettings, StageSampling
from synthmill.storage.plain_files.rows import INSTRUCTIONS
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.cuts.rules.best_bottom import BestBottom
from synthmill.tasks.frames import RunContext
from synthmill.tasks.generators.cluster_draws import ClusterDraws
from synthmill.tasks.generators.novel_prompts import NovelPrompts
from synthmill.tasks.generators.written_prompts import MixedShots, WrittenPrompts
from synthmill.tasks.recipe import MOST_ATTEMPTS
from synthmill.tasks.scorers.expected import ExpectedSettings
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.vectors.stage import Vectors

ANSWERS = PoolAnswerSettings(count=8)
BEST = "a prompt with the best of its answers, its score, and what was drawn"


class AlmaSettings(PoolSettings):
    """One run of `alma`: few seeds -> prompts -> one of each drawn cluster -> answers of each policy -> a judge.

    The role `author` writes the prompts. Name a policy for each checkpoint; each answers as often as the others.
    """

    previewed: ClassVar = "count"
    asks: ClassVar = ("author",)

    source: SourceSettings = Field(description="the seeds")
    count: int = Field(20_000, ge=1, description="prompts to ask for; each is a call; the paper's 100 million")
    fewest_shots: int = Field(3, ge=1, description="seeds that a prompt is written after; the paper's 3")
    most_shots: int = Field(5, ge=1, description="the paper's 5")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    prompts: StageSampling = StageSampling()
    overlap: float = Field(0.7, gt=0, le=1, description="ROUGE-L from which a prompt is too like another")
    clusters: int = Field(2000, ge=1, description="of the prompts' embeddings, by k-means; the paper's million")
    per_round: int = Field(500, ge=1, description="clusters that a round draws; the paper's 50,000")
    round: int = Field(1, ge=1, description="which round; what earlier ones used is left out")
    answers: PoolAnswerSettings = ANSWERS
    scorers: SerializeAsAny[tuple[ScorerSettings, ...]] = (ExpectedSettings(),)
    cuts: SerializeAsAny[tuple[CutSettings, ...]] = (BestBottom(),)

    @model_validator(mode="after")
    def asks_for_answers(self) -> Self:
        if not self.policies:
            raise ValueError("there are no policies; new prompts have no answers yet")
        if self.fewest_shots > self.most_shots:
            raise ValueError("fewest_shots is above most_shots")
        return self


def plan(settings: AlmaSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = resolve_engines(settings, store)
    settings = in_own_units(settings).model_copy(update={"engines": roles})
    source, rows = file_source(store, settings.source, settings.rows_per_part), settings.rows_per_part
    shots = MixedShots(
        count=settings.count,
        seeds=settings.fewest_shots,
        most_seeds=settings.most_shots,
        written=0,
        seed=settings.seed,
        rows_per_part=rows,
    )
    written = WrittenPrompts(
        sampling=settings.sampling(settings.prompts), attempts=settings.attempts, source="alma", role="author"
    )
    seeds = (INSTRUCTIONS.stage, source.key)
    novel = NovelPrompts(
        overlap=settings.overlap, ascii_start=False, programs=True, against=(seeds,), rows_per_part=rows
    )
    first = chain(roles, source.key, shots, written, novel)
    vectors = chain({}, first[-1].key, Vectors(), context=RunContext(settings.embedder))
    draws = ClusterDraws(
        vectors=vectors[-1].key,
        clusters=settings.clusters,
        per_round=settings.per_round,
        round=settings.round,
        seed=settings.seed,
        rows_per_part=rows,
    )
    draw_steps = chain({}, first[-1].key, draws)
    pools = plan_pool_stages("alma", store, settings, roles, draw_steps[-1].key, answers_of(settings))

    def publish(manifests: Manifests) -> Dataset:
        dataset = preferences_dataset(store, manifests, settings, pools.scored, pools.pairs, pools.stages)
        prompts = stream_of(store, manifests[ClusterDraws.name])
        pairs = stream_of(store, manifests["preferences"])
        of_rule = pairs.filter((pl.col("cut") == settings.cuts[0].label) & STAYS)
        how = prompts.frame(["prompt", "parents", "cluster", "round"])
        best = Table.of(of_rule.map(lambda batch: best_answers(batch, how)), "conversations", BEST)
        tables: Mapping[str, Any] = {"sft": best, **dataset.tables}
        figures = [*dataset.figures, counts_of(prompts, "Prompts that were drawn", "round")]
        return replace(dataset, title="ALMA", tables=tables, figures=figures)

    steps = [*first, *vectors, *draw_steps, *pools.stages]
    return Plan("alma", settings, store, source, steps, publish, trunk="preferences", others=pools.sources)


def best_answers(pairs: pl.DataFrame, how: pl.DataFrame) -> pl.DataFrame:
    """The chosen answers of pairs as conversations. how: per prompt, what was drawn."""
    names = {"chosen": "response", "chosen_reward": "reward", "chosen_policy": "policy"}
    if "chosen_reasoning" in pairs.columns:
        names["chosen_reasoning"] = "reasoning"
    rows = pairs.select("id", "parent_id", "prompt", "source", *names).rename(names)
    return as_chats(rows.join(how, on="prompt", how="left", maintain_order="left"))
