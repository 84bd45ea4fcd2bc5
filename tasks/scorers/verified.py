"""Answers that can be checked: a verifier's verdict as the score.

Source: docs/papers.md#verifiers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
import polars as pl
import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from synthmill.schemas.errors import InputError, MissingExtra
from synthmill.schemas.rows import Dropped
from synthmill.storage.plain_files.pool_rows import VERIFIER
from synthmill.tasks.cores import threads
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.verifiers.verdicts import Job, verdicts_of, verifier_called
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, answer_of, missing

BY_ROW = "by-row"
PREFIX = "verify:"
VERDICTS = "verdicts of this scorer"
"""A column that the stage's rows have while it works."""


def as_json(value: Any) -> Any:
    """A verifier's arguments as JSON; a text as it is."""
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


class VerifierScores(FrameScorer):
    """Pools -> the same, scored by a verifier: 0 to 1 per answer, and in LABEL_missing why an answer has no score.

    arguments: the verifier's own. by-row: a row's columns `verifier` and `verifier_arguments` choose.
    """

    name: ClassVar = "verifier_scores"
    version: ClassVar = "1"

    label: str = "verify"
    verifier: str
    arguments: Annotated[str, BeforeValidator(as_json)] = "{}"
    run_code: bool = False

    @model_validator(mode="after")
    def check_arguments(self) -> Self:
        if self.verifier == BY_ROW:
            return self
        try:
            verifier_called(self.verifier, self.arguments.encode(), self.run_code)
        except MissingExtra:
            raise
        except InputError as error:
            raise ValueError(error.message) from error
        return self

    @property
    def missing_column(self) -> str:
        return f"{self.label}_missing"

    def check_columns(self, columns: pa.Schema) -> None:
        """Raises InputError where rows have to name their verifier and do not."""
        if self.verifier == BY_ROW and VERIFIER[0] not in columns.names:
            raise InputError(f"{PREFIX}{BY_ROW} reads the column {VERIFIER[0]}; found {', '.join(columns.names)}")

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        kept = [field for field in columns if field.name != self.missing_column]
        return pa.schema([*kept, pa.field(self.missing_column, pa.list_(pa.string()))])

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        self.check_columns(frame.head(0).to_arrow().schema)
        verdicts = self.verdicts(frame.to_dicts())
        numbers = [[verdict.score for verdict in pool] for pool in verdicts]
        reasons = [[verdict.reason if verdict.score is None else None for verdict in pool] for pool in verdicts]
        frame = frame.with_columns(pl.Series(VERDICTS, numbers, dtype=pl.List(pl.Float64)))
        scored, dropped = super().apply(frame, store)
        column = pl.Series(self.missing_column, reasons, dtype=pl.List(pl.String))
        return scored.drop(VERDICTS, self.missing_column, strict=False).with_columns(column), dropped

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        return [pool[VERDICTS] for pool in pools]

    def verdicts(self, pools: Sequence[Pool]) -> list[list[Verdict]]:
        """A verdict per answer of each pool."""
        verifiers = [self.verifier_of(pool) for pool in pools]
        jobs = [
            Job(verifier, answer_of(answer["text"]), pool["reference"] or "")
            for pool, verifier in zip(pools, verifiers, strict=True)
            if isinstance(verifier, Verifier)
            for answer in pool["answers"]
        ]
        verdicts = iter(verdicts_of(jobs, threads()))
        return [
            [next(verdicts) if isinstance(verifier, Verifier) else missing(verifier) for _ in pool["answers"]]
            for pool, verifier in zip(pools, verifiers, strict=True)
        ]

    def verifier_of(self, pool: Pool) -> Verifier | str:
        """The verifier of a pool's answers, or why there is none. Raises MissingExtra."""
        if self.verifier != BY_ROW:
            return verifier_called(self.verifier, self.arguments.encode(), self.run_code)
        name, arguments = (pool.get(column) or "" for column in VERIFIER)
        try:
            return verifier_called(name.removeprefix(PREFIX), as_json(arguments).encode(), self.run_code)
        except MissingExtra:
            raise
        except (InputError, ValueError) as error:
            return f"bad_verifier: {error}" if name else "no_verifier: the row names none"


class VerifierSettings(ScorerSettings):
    """A verifier: verify:NAME, or verify:by-row, where each row names its own."""

    short_forms: ClassVar = tuple(PREFIX + name for name in (*Verifier.kinds(), BY_ROW))

    kind: Literal["verify"] = "verify"
    verifier: str = Field(description="its name, or by-row: each row's column `verifier` names it")
    arguments: dict[str, Any] = Field(default_factory=dict, description="the verifier's own")
    run_code: bool = Field(False, description="code: whether answers may run on this machine at all")

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        return {"verifier": spec.removeprefix(PREFIX)} if spec.startswith(PREFIX) else None

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.verifier == BY_ROW and self.arguments:
            raise ValueError("arguments mean nothing to by-row; rows have them in the column verifier_arguments")
        if self.verifier not in (names := (*Verifier.kinds(), BY_ROW)):
            raise ValueError(f"no verifier is called {self.verifier!r}; expected {', '.join(names)}")
        return self

    @property
    def label(self) -> str:
        return self.name or f"verify_{self.verifier.replace('-', '_')}"

    @property
    def reads_by_row(self) -> tuple[str, ...]:
        return VERIFIER if self.verifier == BY_ROW else ()

    @property
    def needs_by_row(self) -> tuple[str, ...]:
        return self.reads_by_row[:1]

    def stage(self, context: ScoringContext) -> VerifierScores:
        arguments = as_json(self.arguments)
        if self.verifier != BY_ROW:
            verifier_called(self.verifier, arguments.encode(), self.run_code)
        return VerifierScores(label=self.label, verifier=self.verifier, arguments=arguments, run_code=self.run_code)
