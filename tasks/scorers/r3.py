"""R3, the regularized relevance reward: a white-box reward from length, relevance and repetition, with no reward
model.

Source: docs/papers.md#r3. Open-ended form: length incentive x query relevance x repetition penalty; constrained form:
likeness to a reference x repetition penalty. The paper's relevance is Contriever's unnormalised dot product; with a
normalised embedder it is a cosine, clamped at 0, so rewards of different embedders do not compare.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.schemas.rows import Dropped
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.texts.words import tokens_of
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed

Form = Literal["auto", "open-ended", "constrained"]
LONGEST = 5.12  # the paper's 512 tokens / 100
CUT_AT = ("\n\n\n\n", "\n\n--", "\n\n____", "\nUser:", "\nHuman:", "\nAssistant:")


def response_of(text: str) -> str:
    """The part of an answer that counts: all before a run of blank lines, a rule, or an invented next turn."""
    return text[: min((place for mark in CUT_AT if (place := text.find(mark)) >= 0), default=len(text))]


def length_incentive(tokens: list[str]) -> float:
    """Tokens / 100."""
    return len(tokens) / 100


def repetition_penalty(tokens: list[str]) -> float:
    """Unique trigrams / trigrams; 1 when there is none."""
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def likeness(relevance: float, highest: float) -> float:
    """The constrained form's relevance: 0 to `highest` (the paper's 3.5, for Contriever) becomes 0 to 5.12, which is
    the length incentive of the paper's longest response.
    """
    return relevance / highest * LONGEST


def r3(
    anchors: Sequence[str],
    answers: Sequence[Sequence[str]],
    constrained: Sequence[bool],
    embedder: str,
    store: Path,
    highest: float = 1.0,
) -> list[list[float]]:
    """Per pool, a reward per answer. anchors: the prompt, or the reference of a pool that is constrained; highest: the
    relevance that counts in full there.
    """
    responses = [[response_of(text) for text in texts] for texts in answers]
    vectors = embed(embedder, [*anchors, *(text for texts in responses for text in texts)], store)
    rewards, start = [], len(anchors)
    for n, texts in enumerate(responses):
        relevances = (vectors[start : start + len(texts)] @ vectors[n]).clip(min=0)
        start += len(texts)
        pool_rewards = []
        for text, relevance in zip(texts, relevances.tolist(), strict=True):
            tokens = tokens_of(text)
            size = likeness(relevance, highest) if constrained[n] else length_incentive(tokens) * relevance
            pool_rewards.append(size * repetition_penalty(tokens))
        rewards.append(pool_rewards)
    return rewards


class R3(EmbeddingStage):
    """Pools -> the same with `rewards` by R3, one number per answer. docs/papers.md#r3."""

    name: ClassVar = "rewards"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "answers")
    adds: ClassVar = ("rewards",)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        texts = [[answer["text"] for answer in answers] for answers in frame["answers"].to_list()]
        rewards = r3(frame["prompt"].to_list(), texts, [False] * len(texts), self.embedder, store)
        return frame.with_columns(pl.Series("rewards", rewards, dtype=pl.List(pl.Float64))), []


class R3Scores(EmbeddingStage, FrameScorer):
    """Pools -> the same with R3 as a score: length x relevance x variety (open-ended), or likeness to the reference x
    variety (constrained).

    auto: constrained where a prompt has a reference. `constrained` scores no prompt without.
    """

    name: ClassVar = "r3_scores"
    version: ClassVar = "1"

    label: str = "r3"
    form: Form = "auto"

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        constrained = [self.form != "open-ended" and bool(pool["reference"]) for pool in pools]
        anchors = [pool["reference" if bound else "prompt"] for pool, bound in zip(pools, constrained, strict=True)]
        texts = [[answer["text"] for answer in pool["answers"]] for pool in pools]
        rewards = r3(anchors, texts, constrained, self.embedder, store)
        if self.form == "constrained":
            return [
                values if bound else [math.nan] * len(values)
                for values, bound in zip(rewards, constrained, strict=True)
            ]
        return rewards


class R3Settings(ScorerSettings):
    """A reward from length, relevance and repetition, with no reward model."""

    kind: Literal["r3"] = "r3"
    form: Form = Field(
        "auto", description="relevance to the prompt, or likeness to the reference; auto: where there is one"
    )

    def stage(self, context: ScoringContext) -> R3Scores:
        return R3Scores(embedder=context.embedder, label=self.label, form=self.form)
