"""The multifaceted splits and the bench, as rows that trainers and judges read."""

import polars as pl

from synthmill.schemas.multifaceted import SCORES
from synthmill.storage.published.rows import NO_THOUGHTS, SIDES, answer_message, message

VALUE = ("dimension", "subdimension", "preference", "description")


TRAINS = pl.col("split") == "train"


def sft_rows(variants: pl.DataFrame) -> pl.DataFrame:
    """Variants as conversations with their system message."""
    nothing, own = (NO_THOUGHTS, pl.col("reasoning")) if "reasoning" in variants.columns else (None, None)
    return variants.select(
        "id",
        "parent_id",
        "source",
        "set_index",
        messages=pl.concat_list(
            message("system", "system", nothing),
            message("user", "prompt", nothing),
            message("assistant", "output", own),
        ),
        preference_set=pl.col("preference_set"),
        finish_reason=pl.col("finish_reason"),
    )


def aligned_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs for DPO and ORPO in TRL's conversational format."""
    return pairs.select(
        "id",
        "parent_id",
        "source",
        prompt=pl.concat_list(message("system", "system"), message("user", "prompt")),
        **{side: pl.concat_list(answer_message(side, f"{side}_reasoning", pairs.columns)) for side in SIDES},
        chosen_index="chosen_index",
        rejected_index="rejected_index",
    )


def reward_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs for a reward model, their input rendered as the paper does: `[INST] {system}\\n{instruction} [/INST] `."""
    return pairs.select(
        "id",
        "parent_id",
        "source",
        input=pl.format("[INST] {}\n{} [/INST] ", "system", "prompt"),
        chosen="chosen",
        rejected="rejected",
    )


def bench_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Bench rows in the columns of the paper's: four values, four rubrics in their order, a reference answer."""

    def scores() -> pl.Expr:
        texts = pl.element().struct.field("score_descriptions")
        return pl.struct(*(texts.list.get(place).alias(score) for place, score in enumerate(SCORES)))

    criteria = pl.element().struct.field("criteria")
    value = pl.struct(*(pl.element().struct.field(name) for name in VALUE))
    return rows.select(
        "id",
        "parent_id",
        "source",
        preference_set=pl.col("preference_set").list.eval(value),
        system=pl.col("system"),
        prompt=pl.col("prompt"),
        reference_answer=pl.col("reference_answer"),
        finish_reason=pl.col("finish_reason"),
        rubrics=pl.col("rubrics").list.eval(pl.struct(criteria, scores().alias("score_descriptions"))),
    )


ABOUT = {
    "sft": "a conversation: system message, instruction, response",
    "small": "one of each instruction's, drawn at random",
    "preference": "under one system message, its own response over one that was given under another",
    "rm": "the same for reward models; test: unseen instructions and values",
    "bench": "unseen instructions and values, a rubric for each value, a reference answer",
}
"""What a row is, by configuration."""
