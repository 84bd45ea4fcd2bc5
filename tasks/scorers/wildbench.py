"""WildBench's judges: two writers' checklist per prompt; under it a score from 1 to 10, or comparisons in five steps.

Source: docs/papers.md#wildbench.
"""

import re
from collections.abc import Generator, Sequence
from itertools import chain, zip_longest
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.schemas.texts import normalised
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, Judge, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import present_mean
from synthmill.tasks.texts.rouge import find_too_alike

FEWEST, MOST = 5, 10  # questions of a checklist
ALIKE = 0.7  # ROUGE-L from which a second writer's question repeats one of the first
REWARDS = {"A++": 1.0, "A+": 0.5, "A=B": 0.0, "B+": -0.5, "B++": -1.0}
QUESTION = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])?\s*(?:\[[ xX]?\]\s*)?(.*\?)[\s*\"']*$")
FIELD = r'["\']?{name}["\']?\s*:\s*["\']?\[?\s*([^"\'\],}}\n]*)'
Asked = Generator[list[Request], list[Completion], Any]


class ChecklistJudge(Judge):
    """What both share: the checklist. writers: roles that write one each; the merged list has 5 to 10 questions."""

    writers: tuple[str, ...] = ("writer", "second_writer")
    writing: Sampling = Sampling()

    def needs_roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, *self.writers)))

    def checklist(self, row: ScoredPool, judgements: Judgements) -> Asked:
        """The merged checklist; None where no writer gave five questions."""
        messages = load("wildbench/checklist").render(row=row)
        requests = [
            Request(role=role, messages=messages, sampling=self.writing, optional=True, sample=n * MOST_ATTEMPTS)
            for n, role in enumerate(self.writers)
        ]
        lists = yield from judgements.ask(requests, self.attempts, questions_of)
        return merged([questions for questions in lists if questions])

    def judge_request(self, prompt: str, row: ScoredPool, **variables: Any) -> Request:
        messages = load(prompt).render(row=row, **variables)
        return Request(role=self.role, messages=messages, sampling=self.sampling, optional=True)

    def answered(self, row: ScoredPool) -> list[int]:
        return [place for place, answer in enumerate(row.answers) if answer.text.strip()]


class WildBenchScores(ChecklistJudge):
    """Pools -> the same, each answer scored from 1 to 10 under the prompt's checklist, as (score - 5) x 2: -8 to 10.

    An empty answer gets the lowest score without a call. Without a checklist there is no score.
    """

    name: ClassVar = "wildbench_scores"
    version: ClassVar = "1"
    roles: ClassVar = ("judge", "writer", "second_writer")
    prompts: ClassVar = {"wildbench/checklist": (), "wildbench/score": ("checklist", "answer")}

    label: str = "wildbench"

    def requests_per_row(self) -> int:
        return (len(self.writers) + self.most_answers) * self.attempts

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements, written = Judgements(), self.answered(row)
        values: list[float | None] = [rescaled(1)] * len(row.answers)
        checklist = (yield from self.checklist(row, judgements)) if written else None
        requests = [
            self.judge_request("wildbench/score", row, checklist=checklist, answer=row.answers[place].text)
            for place in written
            if checklist
        ]
        scores = (yield from judgements.ask(requests, self.attempts, score_of)) if requests else [None] * len(written)
        for place, score in zip(written, scores, strict=True):
            values[place] = None if score is None else rescaled(score)
        return self.with_score(row, values, judgements)


class WildBenchRewards(ChecklistJudge):
    """Pools -> the same, each answer's mean reward against the others, -1 to 1, by comparisons under the checklist.

    Much better counts 1, slightly better .5, a tie 0. margin: an answer that is slightly better and more than so many
    characters longer ties; None: lengths count for nothing. Each match is judged in both orders, and counts the mean.
    """

    name: ClassVar = "wildbench_rewards"
    version: ClassVar = "1"
    roles: ClassVar = ("judge", "writer", "second_writer")
    prompts: ClassVar = {"wildbench/checklist": (), "wildbench/choice": ("checklist", "first", "second")}

    label: str = "wildbench_pairs"
    margin: int | None = Field(500, ge=0)

    def requests_per_row(self) -> int:
        return (len(self.writers) + self.most_answers * (self.most_answers - 1)) * self.attempts

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements, texts = Judgements(), [answer.text for answer in row.answers]
        matches = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts)) if texts[i] != texts[j]]
        checklist = (yield from self.checklist(row, judgements)) if matches else None
        orders = [order for match in matches for order in (match, match[::-1]) if checklist]
        requests = [
            self.judge_request("wildbench/choice", row, checklist=checklist, first=texts[i], second=texts[j])
            for i, j in orders
        ]
        choices = (yield from judgements.ask(requests, self.attempts, choice_of)) if requests else []
        won: list[list[float]] = [[] for _ in texts]
        for (i, j), forth, back in zip(matches if checklist else (), choices[::2], choices[1::2], strict=True):
            if forth is not None and back is not None:
                lengths = len(texts[i]), len(texts[j])
                reward = (with_margin(forth, *lengths, self.margin) + with_margin(-back, *lengths, self.margin)) / 2
                won[i].append(reward)
                won[j].append(-reward)
        equal = len(set(texts)) < 2
        return self.with_score(row, [0.0 if equal else present_mean(rewards) for rewards in won], judgements)


class ChecklistSettings(JudgeSettings):
    """The settings that both share."""

    attempts: Attempts = 3
    max_tokens: MaxTokens = 1024
    temperature: float = Field(0.0, ge=0, description="of the judge")
    writers: tuple[str, ...] = Field(
        ("writer", "second_writer"), min_length=1, description="roles in `engines` that write a checklist each"
    )
    writing_temperature: float = Field(0.7, ge=0, description="of the checklists")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, *self.writers)))

    def shared_fields(self, context: ScoringContext) -> dict[str, Any]:
        judging, writing = (
            Sampling(temperature=temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed)
            for temperature in (self.temperature, self.writing_temperature)
        )
        own = {"attempts": self.attempts, "writers": self.writers, "sampling": judging, "writing": writing}
        return {**super().shared_fields(context), **own}


class WildBenchSettings(ChecklistSettings):
    """WB-Score: -8 to 10, under a checklist that two models write for each prompt."""

    kind: Literal["wildbench"] = "wildbench"

    def stage(self, context: ScoringContext) -> WildBenchScores:
        return WildBenchScores(**self.shared_fields(context))


class WildBenchPairSettings(ChecklistSettings):
    """WB-Reward: -1 to 1, comparisons under such a checklist."""

    kind: Literal["wildbench-pairs"] = "wildbench-pairs"
    margin: int | None = Field(
        500, ge=0, description="characters that the slightly better answer may be longer, or it ties; none: any"
    )

    def stage(self, context: ScoringContext) -> WildBenchRewards:
        return WildBenchRewards(**self.shared_fields(context), margin=self.margin)


def rescaled(score: float) -> float:
    """WB-Score: 5 is the middle."""
    return (score - 5) * 2


def with_margin(reward: float, first: int, second: int, margin: int | None) -> float:
    """The first answer's reward; 0 for a slight win of an answer that is more than `margin` characters longer."""
    longer = first - second if reward > 0 else second - first
    return 0.0 if margin is not None and abs(reward) == REWARDS["A+"] and longer > margin else reward


def questions_of(completion: Completion) -> list[str] | None:
    """A writer's questions, ten at most; None where it could not be asked. Raises Drop for fewer than five."""
    if completion.error:
        return None
    lines = (QUESTION.match(line) for line in completion.text.splitlines())
    questions = [match[1].strip(' *"') for match in lines if match]
    if len(questions) < FEWEST:
        raise Drop(f"no_checklist: it had {len(questions)} questions; write 5 to 10, one a line, each with its mark")
    return questions[:MOST]


def merged(lists: Sequence[Sequence[str]]) -> list[str] | None:
    """Questions of several checklists in turn, without those that repeat an earlier one, ten at most."""
    in_turn = [question for question in chain.from_iterable(zip_longest(*lists)) if question is not None]
    questions = list({normalised(question): question for question in reversed(in_turn)}.values())[::-1]
    if not questions:
        return None
    matches, _ = find_too_alike(questions, [], ALIKE)
    kept = [question for question, match in zip(questions, matches, strict=True) if match < 0]
    return kept[:MOST]


def score_of(completion: Completion) -> int | None:
    """The whole number from 1 to 10 in the field score. Raises Drop for another, for none, and for two."""
    if completion.error:
        return None
    value = only_value(completion, "score")
    match = re.fullmatch(r"(10|[1-9])(?:\s*/\s*10|\.0)?", value)
    if not match:
        raise Drop(f"bad_score: its score was {value[:40]!r}; give one whole number from 1 to 10")
    return int(match[1])


def choice_of(completion: Completion) -> float | None:
    """A's reward by the field choice. Raises Drop for another value, for none, and for two."""
    if completion.error:
        return None
    value = only_value(completion, "choice").upper().replace(" ", "")
    if value not in REWARDS:
        raise Drop(f"no_verdict: its choice was {value[:40]!r}; give A++, A+, A=B, B+ or B++")
    return REWARDS[value]


def only_value(completion: Completion, name: str) -> str:
    """The value of a field, which must stand in the text once, or always be the same. Raises Drop."""
    values = {value.strip() for value in re.findall(FIELD.format(name=name), completion.text)}
    if len(values) != 1:
        cut = ", because it was too long; be shorter" if completion.finish_reason == "length" else ""
        raise Drop(f"no_{name}: it had {len(values) or 'no'} fields {name}{cut}; end with one JSON object")
    [value] = values
    return str(value)
