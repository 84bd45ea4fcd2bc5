"""Rows of pools: prompts with many answers, of several models, with the scores of several scorers."""

from synthmill.schemas.calls import Frozen
from synthmill.schemas.rows import Answer, Instruction, Row


class Question(Instruction):
    """An instruction, with a reference answer where there is one."""

    reference: str = ""


class PolicyAnswer(Answer):
    """One answer, and the role of the model that gave it."""

    policy: str = ""


class Score(Frozen):
    """One scorer's numbers, one per answer; None where it gave none. settings: the scorer's, as JSON."""

    scorer: str
    settings: str
    values: tuple[float | None, ...]


class ScoredPool(Question):
    """A prompt's answers and what scorers made of them, in the order of the scorers."""

    answers: tuple[PolicyAnswer, ...]
    scores: tuple[Score, ...] = ()


class VerifiablePool(ScoredPool):
    """A pool whose row says how its answers are verified. verifier_arguments: the verifier's own, as JSON."""

    verifier: str | None = None
    verifier_arguments: str | None = None


class RubricTextPool(ScoredPool):
    """A pool whose row has a rubric. rubric: as its file has it, a text or JSON."""

    rubric: str | None = None


class JudgedPool(ScoredPool):
    """A pool after a judge: how many judgements were asked for, how many of them could not be read, and the first of
    these.
    """

    judgements: int = 0
    unread: int = 0
    first_unread: str = ""


class Shots(Row):
    """What one new prompt is drawn from: a few kept prompts; number: of the sets that the first of them leads."""

    examples: tuple[str, ...]
    number: int = 0


class NewPrompt(Row):
    """A prompt that a model wrote."""

    prompt: str
