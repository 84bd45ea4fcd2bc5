"""Rows of the multifaceted method: an instruction, its preference sets, system messages and responses.

Source: docs/papers.md#multifaceted.
"""

from typing import Any, Literal

from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Answer, Instruction, Row, Thinking, ThinkingOfEach

Split = Literal["train", "bench"]
Origin = Literal["seed", "new_value", "new_subdimension", "given"]
SCORES = ("1", "2", "3", "4", "5")


class Value(Frozen):
    """One user value under one dimension: a short preference and what it asks of an answer."""

    dimension: str
    subdimension: str
    preference: str
    description: str
    origin: Origin = Field(description="whose words these are: the taxonomy's, the model's, or a file's (given)")
    seed: str = Field("", description="the seed value it was drawn for; empty where the model chose")


class WithSets(Instruction):
    """An instruction with its preference sets: one value per dimension each, in the taxonomy's order."""

    split: Split
    sets: tuple[tuple[Value, ...], ...]


class WithSystems(WithSets):
    """... with one system message for each set."""

    systems: tuple[str, ...]


class WithResponses(WithSystems):
    """... with one response under each system message."""

    responses: tuple[Answer, ...]


class Variant(Instruction):
    """One of an instruction's sets: (`system`, `prompt`) and, where it was asked for, the response to them.

    picked: the one of its instruction that `small` and the preference pair are made from.
    """

    split: Split
    set_index: int
    picked: bool
    preference_set: tuple[Value, ...]
    output: str = ""
    finish_reason: str = ""
    reasoning: Thinking = None


class AlignedPair(Instruction):
    """A pair: the response under `system` is chosen over the response under another system message."""

    split: Split
    chosen: str
    rejected: str
    chosen_index: int
    rejected_index: int
    chosen_reasoning: Thinking = None
    rejected_reasoning: Thinking = None


class Rubric(Frozen):
    """A rubric for one value: the criteria, and a description of each score, 1 to 5 in order."""

    criteria: str
    score_descriptions: tuple[str, ...]

    @classmethod
    def of(cls, answer: Any) -> "Rubric":
        """Read {criteria, score_descriptions}; the descriptions are keyed by score or a list of five. Raises Drop."""
        scores = answer.get("score_descriptions") if isinstance(answer, dict) else None
        if isinstance(scores, dict):
            keyed = {"".join(filter(str.isdigit, str(key))): text for key, text in scores.items()}
            scores = [keyed.get(score) for score in SCORES] if len(keyed) == len(SCORES) else None
        texts = [answer.get("criteria"), *scores] if isinstance(scores, list | tuple) else []
        if len(texts) != 1 + len(SCORES) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise Drop(
                "bad_rubric: it must have the text `criteria` and, in `score_descriptions`, one for each of 1 to 5"
            )
        criteria, *descriptions = (" ".join(text.split()) for text in texts)
        return cls(criteria=criteria, score_descriptions=tuple(descriptions))


class BenchRow(Row):
    """One bench instance: (`system`, `prompt`), a rubric for each value in order, a reference answer."""

    prompt: str
    system: str
    source: str = ""
    preference_set: tuple[Value, ...] = ()
    reference_answer: str
    finish_reason: str = ""
    rubrics: tuple[Rubric, ...]
    reasoning: Thinking = None


class JudgedRow(BenchRow):
    """A bench instance with, per run, a model's answer and its score under each rubric (None: could not be read).

    judgements: how many were asked for; unread: how many of them could not be read; first_unread: the first of these.
    """

    answers: tuple[str, ...]
    answers_reasoning: ThinkingOfEach = ()
    scores: tuple[tuple[int | None, ...], ...]
    feedbacks: tuple[tuple[str, ...], ...]
    judgements: int = 0
    unread: int = 0
    first_unread: str = ""
