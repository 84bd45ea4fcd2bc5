"""Rubrics as rewards: the weight of the criteria of its prompt's own rubric that an answer meets, as a share of all.

Source: docs/papers.md#rubrics-as-rewards.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import orjson
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Sampling
from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.schemas.rows import Dropped
from synthmill.schemas.texts import one_line
from synthmill.storage.plain_files.pool_rows import RUBRIC
from synthmill.tasks.recipe import Steps, read_json
from synthmill.tasks.scorers.each_answer import AnswerJudge, mean_verdicts, with_rubrics
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.named_scores import is_named_twice
from synthmill.tasks.scorers.scoring import ScoringContext

Importance = Literal["essential", "important", "optional", "pitfall"]
WEIGHTS: dict[str, float] = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}


class Criterion(Frozen):
    """What an answer to one prompt is checked for; weight: of its importance."""

    criterion: str
    importance: Importance
    weight: float


class WeightedCriterion(Frozen):
    """A criterion of any rubric, by its weight alone."""

    criterion: str
    weight: float


class WeightedPool(ScoredPool):
    """A pool whose row brought weighted criteria."""

    rubric: tuple[WeightedCriterion, ...]


class RubricRewards(AnswerJudge):
    """Pools -> the same, each answer checked against the rubric of its own prompt, all criteria in one call: the weight
    of those that it meets, as a share of all, 0 to 1, averaged over `evaluations`.

    rubric_column: rows have it there, as `prompt_rubrics` makes it, or as such a list in JSON: objects with a
    `criterion` and its `weight`, a positive number, or its `importance`, whose weight counts then. A row without one is
    dropped as `no_rubric`, one that cannot be read as `bad_rubric`. An empty answer gets 0 without a call.
    """

    name: ClassVar = "rubric_rewards"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"prompt_rubrics/check": ("rubric", "answer")}

    label: str = "rubric_reward"
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=1024)
    rubric_column: str = RUBRIC

    def check_columns(self, columns: pa.Schema) -> None:
        check_columns(f"stage {self.name}, rubric_column", (self.rubric_column,), columns.names)

    def read(self, table: pa.Table) -> tuple[list[ScoredPool], list[Dropped]]:
        return with_rubrics(WeightedPool, table, self.rubric_column, weighted_criteria)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        assert isinstance(row, WeightedPool)
        rubric = row.rubric
        pool = ScoredPool(**{name: getattr(row, name) for name in ScoredPool.model_fields})
        names = [str(place) for place in range(1, len(rubric) + 1)]

        def read_reward(completion: Completion) -> float | None:
            return None if completion.error else reward(rubric, read_checks(completion, names))

        judgements = Judgements()
        rewards = yield from self.judge_answers(
            pool, judgements, read_reward, schema=checks_schema(names), rubric=rubric
        )
        return self.with_score(pool, mean_verdicts(rewards, 0), judgements)


class RubricRewardSettings(JudgeSettings):
    """The weight of the criteria of its prompt's own rubric that an answer meets, as a share of all."""

    kind: Literal["rubric-reward"] = "rubric-reward"
    evaluations: int = Field(1, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 1024
    temperature: float = Field(0.0, ge=0, description="how far the judgements of an answer may differ")

    @property
    def reads_by_row(self) -> tuple[str, ...]:
        return (RUBRIC,)

    @property
    def needs_by_row(self) -> tuple[str, ...]:
        return (RUBRIC,)

    def stage(self, context: ScoringContext) -> RubricRewards:
        sampling = Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed)
        own = {"evaluations": self.evaluations, "attempts": self.attempts, "sampling": sampling}
        return RubricRewards(**self.shared_fields(context), **own)


def weighted_criteria(value: Any) -> tuple[WeightedCriterion, ...]:
    """The criteria that a row has. Raises Drop for none, and for what is no list of them."""
    if isinstance(value, str) and value.strip():
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise Drop(f"bad_rubric: a text that is no JSON: {value[:80]!r}") from error
    if not value:
        raise Drop("no_rubric: the row has no criteria")
    return tuple(map(weighted_criterion, value if isinstance(value, list) else [value]))


def weighted_criterion(item: Any) -> WeightedCriterion:
    """One of them. Raises Drop without a text, or a weight."""
    fields = item if isinstance(item, dict) else {}
    text, weight = fields.get("criterion"), fields.get("weight")
    if weight is None:
        weight = WEIGHTS.get(str(fields.get("importance")))
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not isinstance(text, str) or not text.strip() or not is_number or not 0 < float(weight or 0) < math.inf:
        raise Drop(
            f"bad_rubric: found {item!r:.80}; expected a `criterion` with a positive `weight`, or an `importance`, one "
            f"of {', '.join(WEIGHTS)}"
        )
    return WeightedCriterion(criterion=one_line(text), weight=float(weight or 0))


def object_of(properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object that has all of some properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def checks_schema(names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of true or false for each criterion, by its number."""
    return object_of({name: {"type": "boolean"} for name in names})


def read_checks(completion: Completion, names: list[str]) -> tuple[bool, ...]:
    """Whether an answer meets each criterion. Raises Drop where one is missing, or neither true nor false."""
    checks = read_json(completion, "bad_checks")
    for name in names:
        if not isinstance(checks.get(name), bool) or is_named_twice(completion.text, name):
            raise Drop(f"bad_checks: {name} was {checks.get(name)!r:.40}; give one true or false for 1 to {names[-1]}")
    return tuple(checks[name] for name in names)


def reward(rubric: Sequence[Criterion | WeightedCriterion], met: tuple[bool, ...]) -> float:
    """The weight of the criteria that are met, as a share of all."""
    total = sum(each.weight for each in rubric)
    return sum(each.weight for each, is_met in zip(rubric, met, strict=True) if is_met) / total
