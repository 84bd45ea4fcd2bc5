"""Rubrics as rewards: for each pair a rubric that tells the chosen answer from the rejected one, for RL on its prompt.

Source: docs/papers.md#rubrics-as-rewards.
"""

from typing import Any, ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction
from synthmill.schemas.texts import normalised, one_line
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_all, ask_until, read_json
from synthmill.tasks.scorers.rubric_reward import WEIGHTS, Criterion, checks_schema, object_of, read_checks, reward

LONGEST = 400  # characters of a criterion


class Compared(Instruction):
    """A prompt with an answer that is preferred over another."""

    chosen: str
    rejected: str


class RubricPrompt(Instruction):
    """A prompt for RL and the rubric that rewards its answers: the weight of the criteria that an answer meets, as a
    share of all; chosen_reward, rejected_reward: of the pair that the rubric was written from.
    """

    rubric: tuple[Criterion, ...]
    chosen_reward: float
    rejected_reward: float


class PromptRubrics(Recipe[Compared, RubricPrompt]):
    """Pair -> its prompt with a rubric that `author` writes from both answers, kept where it gives the chosen one the
    higher reward by more than `margin`, as `judge` applies it to each answer alone.

    Drops: bad_rubric, bad_checks, same_text, and label_not_reproduced for a rubric that does not tell them apart.
    """

    name: ClassVar = "prompt_rubrics"
    version: ClassVar = "1"
    roles: ClassVar = ("author", "judge")
    prompts: ClassVar = {"prompt_rubrics/write": ("fewest", "most"), "prompt_rubrics/check": ("rubric", "answer")}
    adds_own_columns: ClassVar = True

    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=2048)
    fewest: int = Field(3, ge=1, description="criteria of a rubric")
    most: int = Field(12, ge=1, le=50)
    margin: float = Field(0.0, ge=0, lt=1, description="the chosen answer's reward must be higher by more than this")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return 3 * self.attempts

    def steps(self, row: Compared) -> Steps[RubricPrompt]:
        if row.chosen.strip() == row.rejected.strip():
            raise Drop("same_text: no rubric tells equal answers apart")
        writing = Request(
            role="author",
            messages=load("prompt_rubrics/write").render(row=row, fewest=self.fewest, most=self.most),
            sampling=self.sampling,
            schema_=rubric_schema(self.fewest, self.most),
        )
        rubric = yield from ask_until(writing, self.attempts, lambda completion: read_criteria(completion, self.fewest))
        names = [str(place) for place in range(1, len(rubric) + 1)]
        checks = [
            Request(
                role="judge",
                messages=load("prompt_rubrics/check").render(row=row, rubric=rubric, answer=answer),
                sampling=self.sampling.model_copy(update={"temperature": 0.0}),
                schema_=checks_schema(names),
            )
            for answer in (row.chosen, row.rejected)
        ]
        met = yield from ask_all(checks, self.attempts, lambda _, completion: read_checks(completion, names))
        chosen, rejected = (reward(rubric, each) for each in met)
        if chosen <= rejected + self.margin:
            raise Drop(f"label_not_reproduced: the chosen answer has {chosen:.3f}, the rejected one {rejected:.3f}")
        return RubricPrompt.child_of(row, self.name, rubric=rubric, chosen_reward=chosen, rejected_reward=rejected)


def rubric_schema(fewest: int, most: int) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST}
    criterion = object_of({"criterion": text, "importance": {"enum": list(WEIGHTS)}})
    return object_of({"rubric": {"type": "array", "items": criterion, "minItems": fewest, "maxItems": most}})


def read_criteria(completion: Completion, fewest: int) -> tuple[Criterion, ...]:
    """The different criteria of a written rubric. Raises Drop where there are too few, or one has no importance."""
    listed = read_json(completion, "bad_rubric").get("rubric")
    criteria: dict[str, Criterion] = {}
    for item in listed if isinstance(listed, list) else ():
        fields = item if isinstance(item, dict) else {}
        text, importance = fields.get("criterion"), fields.get("importance")
        if not isinstance(text, str) or not text.strip() or importance not in WEIGHTS:
            raise Drop(f"bad_rubric: each item needs a `criterion` and an `importance`, one of {', '.join(WEIGHTS)}")
        weight = WEIGHTS[importance]
        criteria.setdefault(normalised(text), Criterion(criterion=one_line(text), importance=importance, weight=weight))
    if len(criteria) < fewest:
        raise Drop(f"bad_rubric: it had {len(criteria)} different criteria; write {fewest} at least")
    return tuple(criteria.values())
