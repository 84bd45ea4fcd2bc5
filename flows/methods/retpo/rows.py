"""Rewriting rows that trainers read: prompt and completion, prompt with chosen and rejected, retrieval triplets."""

import polars as pl

from synthmill.storage.published.rows import SIDES, answer_message, message

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
KEPT = ("id", "parent_id", "conversation", "turn")


def conversation(instruction: str) -> pl.Expr:
    """The conversation up to the question as messages, under an instruction where there is one."""
    system = pl.lit([{"role": "system", "content": instruction}] if instruction else [], dtype=MESSAGES)
    return pl.concat_list(system, "history", pl.concat_list(message("user", "question")))


def pick_rows(picks: pl.DataFrame, instruction: str) -> pl.DataFrame:
    """Picks for SFT: the loss falls on the completion."""
    return picks.select(
        *KEPT,
        prompt=conversation(instruction),
        completion=pl.concat_list(answer_message("query", "reasoning", picks.columns)),
        rank="rank",
        methods="methods",
    )


def pair_rows(pairs: pl.DataFrame, instruction: str) -> pl.DataFrame:
    """Pairs for DPO in TRL's conversational format, with what the retrievers say of them."""
    own = {*KEPT, "retriever", "history", "question", *SIDES, *(f"{side}_reasoning" for side in SIDES)}
    rest = [name for name in pairs.columns if name not in own]
    return pairs.select(
        *KEPT,
        prompt=conversation(instruction),
        **{side: pl.concat_list(answer_message(side, f"{side}_reasoning", pairs.columns)) for side in SIDES},
        **{name: pl.col(name) for name in rest},
    )


def answer_rows(turns: pl.DataFrame) -> pl.DataFrame:
    """Turns with a reference answer, for the SFT step before: it teaches what answers look like."""
    return turns.select(*KEPT, prompt=conversation(""), completion=pl.concat_list(message("assistant", "answer")))


def triplet_rows(mined: pl.DataFrame) -> pl.DataFrame:
    """anchor, positive, negative, and where they are from; sentence-transformers takes these three (select_columns)."""
    return mined.select("query", "positive", "negative", "rejected", *KEPT).rename(
        {"query": "anchor", "rejected": "rejected_query"}
    )
