"""Teacher-over-student pairs: what the preference stages make of an application's first answers.

Source: docs/papers.md#genpi; the pairs are ours.
"""

from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from synthmill.schemas.dialogues import SingleTurn
from synthmill.schemas.endings import ending_of
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped, Pair, Pool, arrow_schema, row_columns
from synthmill.storage.published.rows import SIDES, thinks
from synthmill.tasks.frames import FrameStage, frame_schema


class AnswerPools(FrameStage):
    """Single-turn outputs -> pools of two answers for the preference stages: the teacher's (0), the student's (1).

    Drops: tool_call, which is no text to prefer over another.
    """

    name: ClassVar = "answer_pools"
    version: ClassVar = "1"
    needs: ClassVar = row_columns(SingleTurn)
    adds: ClassVar = row_columns(Pool)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        def answer(place: int, whose: str) -> dict[str, Any]:
            text, finish_reason = row[f"{whose}_output_single"], row[f"{whose}_finish_reason"]
            thoughts = row.get(f"{whose}_reasoning")
            fields = {"answer_index": place, "text": text, "finish_reason": finish_reason, "completion_tokens": 0}
            return {**fields, "reasoning": thoughts} if thinking else fields

        thinking = "teacher_reasoning" in frame.columns
        pools, dropped = [], []
        for row in frame.iter_rows(named=True):
            application = row["application"]
            if row["teacher_calls_tool"]:
                dropped.append(Dropped(id=row["id"], reason="tool_call"))
                continue
            pools.append(
                {
                    "id": child_id(row["id"], self.name),
                    "parent_id": row["id"],
                    "prompt": application["student_input"].replace("{input}", row["pseudo_input"]),
                    "system": None,
                    "source": application["name"],
                    "note": "",
                    "answers": [answer(0, "teacher"), answer(1, "student")],
                }
            )
        return pl.DataFrame(pools, schema=frame_schema(Pool, thinking)), dropped


class TeacherPairs(FrameStage):
    """Pools of a teacher's and a student's answer, with `rewards` -> the teacher's answer over the student's, whatever
    their rewards are.

    Drops: same_text, content_filter (a filter broke one of them off), cut_short (max_tokens cut the teacher's). Ours:
    the paper does not train on preferences; the rewards tell where the teacher is not better.
    """

    name: ClassVar = "teacher_pairs"
    version: ClassVar = "2"
    needs: ClassVar = ("id", "prompt", "system", "source", "note", "answers", "rewards")
    adds: ClassVar = row_columns(Pair)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        def text(place: int, field: str = "text") -> pl.Expr:
            return pl.col("answers").list.get(place).struct.field(field)

        endings = [[ending_of(answer["finish_reason"]) for answer in answers] for answers in frame["answers"].to_list()]
        is_filtered = ["content_filter" in of_pool for of_pool in endings]
        is_cut = [of_pool[:1] == ["length"] for of_pool in endings]
        reasons = frame.select(
            "id",
            reason=pl.when(pl.Series(is_filtered, dtype=pl.Boolean))
            .then(pl.lit("content_filter"))
            .when(pl.Series(is_cut, dtype=pl.Boolean))
            .then(pl.lit("cut_short"))
            .when(text(0) == text(1))
            .then(pl.lit("same_text")),
        )
        usable = frame.filter(reasons["reason"].is_null())
        thinking = thinks(frame.schema["answers"])
        thoughts = {f"{side}_reasoning": text(place, "reasoning") for place, side in enumerate(SIDES) if thinking}
        pairs = usable.with_columns(
            pl.Series("id", [child_id(row, self.name) for row in usable["id"]], dtype=pl.String),
            parent_id=pl.col("id"),
            chosen=text(0),
            rejected=text(1),
            chosen_index=pl.lit(0, pl.Int64),
            rejected_index=pl.lit(1, pl.Int64),
            chosen_reward=pl.col("rewards").list.get(0),
            rejected_reward=pl.col("rewards").list.get(1),
            cut=pl.lit("teacher_over_student"),
            **thoughts,
        )
        dropped = [Dropped(id=row, reason=reason) for row, reason in reasons.drop_nulls().iter_rows()]
        return pairs.select(arrow_schema(Pair, thinking).names), dropped
