"""BiGGen Bench's judge: a rubric and a reference for each prompt, from its row, or written by a model.

Source: docs/papers.md#biggen.
"""

from collections.abc import Generator, Mapping
from typing import Any, ClassVar, Literal

import orjson
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.column_names import check_columns, check_free
from synthmill.schemas.errors import Drop
from synthmill.schemas.multifaceted import SCORES, Rubric
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.schemas.rows import Dropped, read_rows
from synthmill.storage.plain_files.pool_rows import RUBRIC
from synthmill.tasks.recipe import Steps, read_json
from synthmill.tasks.scorers.each_answer import AnswerJudge, mean_verdicts, with_rubrics
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import HIGHEST, LOWEST, judgement_of

USED = ("instance_rubric", "instance_reference")


class RubricPool(ScoredPool):
    """A pool whose row may have brought a rubric."""

    rubric: Rubric | None = None


class InstancePool(JudgedPool):
    """A pool with the rubric and the reference that it was judged by; null and empty where there was none."""

    instance_rubric: Rubric | None = None
    instance_reference: str = ""


class InstanceScores(AnswerJudge):
    """Pools -> the same, each answer judged from 1 to 5 under a rubric of its own prompt, beside a reference answer.

    rubric_column: rows may have it there, as {criteria, score1_description, ...}, {criteria, score_descriptions}, or
    such an object in JSON; where a row has none, `author` writes it. `author` writes the reference, too, where the row
    has none, unless references are `given`. A row with a rubric that cannot be read is dropped as `bad_rubric`. Where
    none could be written, nothing is scored. An empty answer scores 1 without a call.
    """

    name: ClassVar = "instance_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge", "author")
    prompts: ClassVar = {
        "biggen/rubric": (),
        "biggen/reference": (),
        "biggen/score": ("answer", "rubric", "reference"),
    }
    takes: ClassVar = ScoredPool
    makes: ClassVar = InstancePool
    adds_own_columns: ClassVar = True

    label: str = "biggen"
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=1024)
    rubric_column: str = RUBRIC
    author: str = "author"
    references: Literal["written", "given"] = "written"

    def needs_roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, self.author)))

    def requests_per_row(self) -> int:
        return super().requests_per_row() + 2 * self.attempts

    def check_columns(self, columns: pa.Schema) -> None:
        check_free(f"stage {self.name}", USED, columns.names)
        if self.rubric_column != RUBRIC:
            check_columns(f"stage {self.name}, rubric_column", (self.rubric_column,), columns.names)

    def read(self, table: pa.Table) -> tuple[list[ScoredPool], list[Dropped]]:
        if self.rubric_column not in table.column_names:
            return read_rows(ScoredPool, table)
        return with_rubrics(RubricPool, table, self.rubric_column, rubric_in)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements = Judgements()
        rubric = None
        if isinstance(row, RubricPool):
            rubric, row = row.rubric, ScoredPool(**{name: getattr(row, name) for name in ScoredPool.model_fields})
        if rubric is None:
            rubric = yield from self.written("biggen/rubric", row, judgements, read_rubric, RUBRIC_SCHEMA)
        reference: str | None = row.reference
        if rubric and not reference and self.references == "written":
            reference = yield from self.written("biggen/reference", row, judgements, read_reference)
        values: list[float | None] = [None] * len(row.answers)
        if rubric:
            scores = yield from self.judge_answers(
                row, judgements, read_score, "biggen/score", rubric=rubric, reference=reference or ""
            )
            values = mean_verdicts(scores, LOWEST)
        pool = self.with_score(row, values, judgements)
        return InstancePool(**pool.__dict__, instance_rubric=rubric, instance_reference=reference or "")

    def written(
        self,
        prompt: str,
        row: ScoredPool,
        judgements: Judgements,
        parse: Any,
        schema: Mapping[str, Any] | None = None,
    ) -> Generator[list[Request], list[Completion], Any]:
        """What the author writes for a row; None where nothing could be read."""
        request = self.ask_for(prompt, row, schema).model_copy(update={"role": self.author})
        [text] = yield from judgements.ask([request], self.attempts, parse)
        return text


class BiggenSettings(JudgeSettings):
    """A judge's scores from 1 to 5 under a rubric and a reference of the prompt's own."""

    kind: Literal["biggen"] = "biggen"
    author: str = Field("author", description="the role that writes rubrics and references", min_length=1)
    references: Literal["written", "given"] = Field(
        "written", description="written: by the author, where a row has none; given: only those that rows have"
    )
    evaluations: int = Field(1, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 1024
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, self.author)))

    @property
    def reads_by_row(self) -> tuple[str, ...]:
        return (RUBRIC,)

    def stage(self, context: ScoringContext) -> InstanceScores:
        return InstanceScores(
            **self.shared_fields(context),
            **{name: getattr(self, name) for name in ("author", "references", "evaluations", "attempts")},
            sampling=Sampling(
                temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=context.seed
            ),
        )


TEXT = {"type": "string", "minLength": 1, "maxLength": 1000}
RUBRIC_SCHEMA = {
    "type": "object",
    "properties": {
        "criteria": TEXT,
        "score_descriptions": {
            "type": "object",
            "properties": dict.fromkeys(SCORES, TEXT),
            "required": list(SCORES),
            "additionalProperties": False,
        },
    },
    "required": ["criteria", "score_descriptions"],
    "additionalProperties": False,
}


def rubric_in(value: Any) -> Rubric | None:
    """The rubric that a row has: in BiGGen's form, or as `Rubric.of` reads it, or such an object in JSON. None for
    null and an empty text. Raises Drop for anything else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise Drop(f"bad_rubric: a text that is no JSON: {value[:80]!r}") from error
    if isinstance(value, dict) and "score1_description" in value:
        value = {**value, "score_descriptions": [value.get(f"score{score}_description") for score in SCORES]}
    return Rubric.of(value)


def read_rubric(completion: Completion) -> Rubric | None:
    """A written rubric. Raises Drop where its five descriptions are not there, or two are the same."""
    if completion.error:
        return None
    rubric = Rubric.of(read_json(completion, "bad_rubric"))
    if len(set(rubric.score_descriptions)) < len(SCORES):
        raise Drop("bad_rubric: two scores have the same description; describe each of 1 to 5 apart")
    return rubric


def read_reference(completion: Completion) -> str | None:
    """A written reference answer. Raises Drop for an empty or a cut one."""
    if completion.error:
        return None
    if completion.finish_reason == "length":
        raise Drop("cut_reference: it was cut, because it was too long; be shorter")
    if not completion.text.strip():
        raise Drop("empty_reference: there was no answer; write one")
    return completion.text.strip()


def read_score(completion: Completion) -> int | None:
    judgement = judgement_of(completion, LOWEST, HIGHEST)
    return judgement and judgement[1]
