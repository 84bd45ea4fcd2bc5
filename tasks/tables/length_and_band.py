"""Stages that choose rows by how long an answer is, or by where a score stands among all.

Source: docs/papers.md#long-is-more, docs/papers.md#ifd.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from synthmill.schemas.column_names import check_free
from synthmill.schemas.rows import Dropped
from synthmill.tasks.asking.row_chats import ANSWERS, answer_of
from synthmill.tasks.tables.choosing import Share, Top, shown
from synthmill.tasks.tables.pool_scores import Over, score_of
from synthmill.tasks.tables.table_stage import WholeTableStage, drops
from synthmill.tasks.texts.tokens import load_tokenizer, tokenizer_identity
from synthmill.tasks.texts.words import tokens_of

LENGTH = "answer_length"


class Longest(Share):
    """Prompts with answers, or chats -> those with the longest answers, with `answer_length`, in tokens; the others
    are dropped as `not_top`. Of equal lengths, the lower id goes first.

    answer: the column; default: as the stage alpagasus finds it. tokenizer: a folder or Hub id; default: words and runs
    of punctuation are counted.
    """

    name: ClassVar = "longest"
    version: ClassVar = "1"

    answer: str = Field("", description=f"default: the first of {', '.join(ANSWERS)}; of a chat, its last answer")
    tokenizer: str = ""

    def identity(self, engines: Any) -> dict[str, Any]:
        """With what identifies the tokenizer's files."""
        own = {"tokenizer_identity": tokenizer_identity(self.tokenizer)} if self.tokenizer else {}
        return {**super().identity(engines), **own}

    def columns_read(self) -> Sequence[str]:
        return [self.answer] if self.answer else []

    def check_columns(self, columns: pa.Schema) -> None:
        check_free(f"stage {self.name}", [LENGTH], columns.names)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        names = [self.answer] if self.answer else [name for name in ("messages", *ANSWERS) if name in frame.columns]
        texts = [answer_of(row, self.answer) for row in frame.select("id", *names).iter_rows(named=True)]
        lengths = pl.Series(LENGTH, self.lengths_of(texts), dtype=pl.Int64)
        ranking = Top(score=LENGTH, **{name: getattr(self, name) for name in ("count", "share", "rows_per_part")})
        return ranking.apply(frame.with_columns(lengths), store)

    def lengths_of(self, texts: Sequence[str]) -> list[int]:
        if not self.tokenizer or not texts:
            return [len(tokens_of(text)) for text in texts]
        tokenizer = load_tokenizer(self.tokenizer, chat=False)
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


class QuantileBand(WholeTableStage):
    """Rows -> those whose score lies between two quantiles of all scores, both included, and is at most `most`; the
    others, and rows without a score, are dropped as `outside_band`, with their score. RIP's baselines keep .25 to
    1 of perplexity or IFD.
    """

    name: ClassVar = "quantile_band"
    version: ClassVar = "1"

    score: str
    low: float = Field(0.25, ge=0, le=1)
    high: float = Field(1.0, ge=0, le=1)
    most: float | None = Field(None, description="an upper bound of the score itself; of IFD, 1")
    over: Over = "max"

    @model_validator(mode="after")
    def in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, {self.high}")
        return self

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        scores = score_of(frame, f"stage {self.name}", self.score, self.over)
        usable = scores if self.most is None else scores.filter((scores <= self.most).fill_null(False))
        bounds = [usable.quantile(share, "linear") for share in (self.low, self.high)]
        kept = pl.Series([False] * len(scores), dtype=pl.Boolean)
        if bounds[0] is not None and bounds[1] is not None:
            least, most = (float(bound) for bound in bounds if isinstance(bound, int | float))
            kept = ((scores >= least) & (scores <= most)).fill_null(False)
        rest = ~kept
        return frame.filter(kept), drops(frame["id"].filter(rest), "outside_band", map(shown, scores.filter(rest)))
