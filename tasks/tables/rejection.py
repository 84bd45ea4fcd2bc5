"""Rows for SFT from the answers of pools that passed.

Source: docs/papers.md#rejection-sampling.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field
from rapidfuzz.distance import Indel

from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.storage.published.rows import thinks
from synthmill.tasks.tables.pass_rates import PASSING
from synthmill.tasks.tables.pool_scores import beside_answers, score_values
from synthmill.tasks.tables.table_stage import TableStage, drops
from synthmill.tasks.texts.words import tokens_of

MOST_TOKENS = 2000  # of an answer that are compared


ROW = {
    "place": pl.Int64,
    "id": pl.String,
    "parent_id": pl.String,
    "completion": pl.String,
    "completion_reasoning": pl.String,
    "score": pl.Float64,
}


class Rejection(TableStage):
    """Pools -> a row per kept answer that passed: prompt, completion, score, beside the pool's other columns. keep:
    all, the `count` shortest, or the most different ones. Equal texts count once. Drops: no_pass, not_verified.

    most different: the first that passed, then each time the one that is least like those before, by the longest common
    subsequence of words.
    """

    name: ClassVar = "rejection"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "answers")
    adds: ClassVar = ("id", "parent_id", "completion", "score")

    score: str
    passing: float = PASSING
    keep: Literal["all", "shortest", "different"] = "all"
    count: int = Field(4, ge=1, description="shortest, different: the most rows of a prompt")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        scores = score_values(frame, f"stage {self.name}", self.score).to_list()
        rows: list[dict[str, Any]] = []
        dropped: dict[str, list[str]] = {"no_pass": [], "not_verified": []}
        for place, (row_id, answers, values) in enumerate(
            zip(frame["id"], frame["answers"].to_list(), scores, strict=True)
        ):
            pairs = list(zip(answers or (), values or (), strict=False))
            passed = [(answer, value) for answer, value in pairs if value is not None and value >= self.passing]
            for answer, value in self.kept(passed):
                text, index = answer["text"], answer["answer_index"]
                rows.append({"place": place, "id": child_id(row_id, f"{self.name}-{index}"), "parent_id": row_id})
                rows[-1] |= {"completion": text, "completion_reasoning": answer.get("reasoning"), "score": value}
            if not passed:
                verified = any(value is not None for _, value in pairs)
                dropped["no_pass" if verified else "not_verified"].append(row_id)
        answers = pl.DataFrame(rows, schema=ROW)
        own = frame.select(name for name in beside_answers(frame) if name not in ROW)[answers["place"].to_list()]
        if not thinks(frame.schema["answers"]):
            answers = answers.drop("completion_reasoning")
        faults = [drop for reason, ids in dropped.items() for drop in drops(ids, reason, [""] * len(ids))]
        return pl.concat([answers.drop("place"), own], how="horizontal"), faults

    def kept(self, passed: Sequence[tuple[dict[str, Any], float]]) -> list[tuple[dict[str, Any], float]]:
        """Some of the answers that passed, each text once."""
        unlike = list({answer["text"].strip(): (answer, value) for answer, value in reversed(passed)}.values())[::-1]
        if self.keep == "all":
            return unlike
        if self.keep == "shortest":
            return sorted(unlike, key=lambda pair: len(pair[0]["text"]))[: self.count]
        return [unlike[place] for place in most_different([answer["text"] for answer, _ in unlike], self.count)]


def most_different(texts: Sequence[str], count: int) -> list[int]:
    """The first text, then each time the one whose nearest neighbour among those before is furthest; of equal ones the
    first.
    """
    tokens = [tokens_of(text)[:MOST_TOKENS] for text in texts]
    chosen, nearest = [0][: len(texts)], [0.0] * len(texts)
    while len(chosen) < min(count, len(texts)):
        latest = tokens[chosen[-1]]
        nearest = [
            max(before, Indel.normalized_similarity(latest, own)) for before, own in zip(nearest, tokens, strict=True)
        ]
        rest = [place for place in range(len(texts)) if place not in chosen]
        chosen.append(min(rest, key=lambda place: nearest[place]))
    return sorted(chosen)
