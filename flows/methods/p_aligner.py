"""Instructions rewritten by principles so that models answer them better: (raw, best) rows and pairs.

Source: docs/papers.md#p-aligner.
"""

from collections.abc import Mapping
from typing import Literal

import polars as pl
from pydantic import Field

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.pages.trees import draw_tree
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.settings import ENGINES, EngineSettings, QuestionSettings, StageSampling
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.rows import QUESTIONS
from synthmill.storage.published.by_columns import TableForm, table_of
from synthmill.storage.published.configurations import Dataset, Figure
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.dedup.contamination import CleanInstructions
from synthmill.tasks.dedup.duplicates import UniqueInstructions
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.instruction_trees import (
    PRINCIPLES,
    AlignedInstructions,
    InstructionPairs,
    InstructionTrees,
)
from synthmill.tasks.recipe import MOST_ATTEMPTS
from synthmill.tasks.scorers.labels import one_token

ROLES = ("rewriter", "student", "judge")
PICTURE = "tree.svg"


class PAlignerSettings(PublishSettings):
    """One run of `p-aligner`: instructions -> trees of rewritings -> best rewritings, and pairs of steps.

    Roles: rewriter, student (responds), judge.
    """

    source: QuestionSettings
    engines: dict[Literal["teacher", "rewriter", "student", "judge"], EngineSettings] = ENGINES
    principles: dict[str, str] = Field(PRINCIPLES, min_length=1, description="name -> rule")
    iterations: int = Field(10, ge=1, description="rewritings of an instruction; the paper's 10")
    weight: float = Field(1.0, ge=0, description="of exploration in UCT; the paper's 1")
    samples: int = Field(2, ge=1, description="responses to each rewriting; ours")
    most_children: int = Field(3, ge=1, description="of a node, before the search goes on below it; ours")
    gain: float = Field(0.0, ge=0, description="a better one is better by more than this")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    rewriting: StageSampling = StageSampling()
    responses: StageSampling = StageSampling(max_tokens=1024)


def plan(settings: PAlignerSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in ROLES}
    settings = settings.model_copy(update={"engines": roles})
    source = file_source(store, settings.source, settings.rows_per_part, QUESTIONS)
    cleaning = clean("p-aligner", settings, store, source.key, Comparison(CleanInstructions, UniqueInstructions))
    search = settings.model_dump(include={"principles", "iterations", "weight", "samples", "most_children", "attempts"})
    trees = chain(
        roles,
        cleaning.key,
        InstructionTrees(
            sampling=settings.sampling(settings.rewriting),
            responding=settings.sampling(settings.responses),
            judging=one_token(settings.seed),
            **search,
        ),
    )
    rows = chain({}, trees[-1].key, AlignedInstructions(gain=settings.gain))
    pairs = chain({}, trees[-1].key, InstructionPairs(gain=settings.gain))
    return Plan(
        "p-aligner",
        settings,
        store,
        source,
        [*cleaning.stages, *trees, *rows, *pairs],
        lambda manifests: p_aligner_dataset(store, manifests),
        trunk="instruction_trees",
        others=cleaning.sources,
    )


def p_aligner_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """(raw -> best) for SFT, (parent -> better child) for preferences, the trees, and a picture of one."""
    trees = stream_of(store, manifests["instruction_trees"])
    best = stream_of(store, manifests["aligned_instructions"])
    about = "a raw instruction and its best rewriting, which a rewriter learns"
    tables = {
        "sft": table_of(best, form=TableForm(kind="completions", answer="completion", about=about)),
        "dpo": table_of(stream_of(store, manifests["instruction_pairs"]), form=TableForm(kind="preferences")),
        "trees": table_of(trees, form=TableForm(kind="other", about="an instruction with all its rewritings")),
    }
    picture, about = picture_of(trees)
    counts = f"{best.height:,} of {trees.height:,} instructions have a better rewriting"
    return Dataset(
        "Instructions rewritten by principles",
        "Instructions with the rewritings that models answer better, found by Monte Carlo tree search.",
        tables,
        files={PICTURE: picture},
        figures=[
            Figure.lines("Rewritings", [counts]),
            Figure("What each principle does", ("principle", "nodes", "mean gain", "better"), gains(trees)),
            Figure("The tree with the largest gain", picture=PICTURE, about=about),
        ],
    )


def gains(trees: RowStream) -> tuple[tuple[str, ...], ...]:
    """Per principle its nodes, the mean gain over their parents, and the share that gains; the best first."""
    rows = []
    for (nodes,) in trees.frame(["nodes"]).iter_rows():
        rows += [(node["principle"], node["reward"] - nodes[node["parent"]]["reward"]) for node in nodes[1:]]
    frame = pl.DataFrame(rows, schema={"principle": pl.String, "gain": pl.Float64}, orient="row").group_by("principle")
    means = frame.agg(pl.len(), pl.mean("gain"), (pl.col("gain") > 0).mean().alias("better"))
    ranked = means.sort(["gain", "principle"], descending=[True, False])
    return tuple((name, f"{count:,}", f"{gain:+.2f}", f"{share:.0%}") for name, count, gain, share in ranked.rows())


def picture_of(trees: RowStream) -> tuple[bytes, str]:
    """The tree whose best node gains most, of equal ones the first, as SVG; and what it shows."""
    rows = trees.frame(["prompt", "nodes", "best"]).rows()
    prompt, nodes, best = max(rows, key=lambda row: row[1][row[2]]["reward"] - row[1][0]["reward"])
    labels = [f"{node['principle'] or 'raw'} {node['reward']:.1f}" for node in nodes]
    return draw_tree(
        [node["parent"] for node in nodes], labels, best
    ), f"{prompt[:200]} -> {nodes[best]['instruction'][:400]}"
