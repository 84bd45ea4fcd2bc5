"""What judges share that look at one answer at a time: its verdicts, and several named scores of it."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.schemas.rows import Dropped, read_rows
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Judge
from synthmill.tasks.scorers.verdicts import present_mean

T = TypeVar("T")
Values = Sequence[float | None]


class AnswerJudge(Judge):
    """A judge of single answers. evaluations: judgements of an answer, each another sample."""

    evaluations: int = Field(1, ge=1)

    def requests_per_row(self) -> int:
        return self.most_answers * self.evaluations * self.attempts

    def judge_answers(
        self,
        row: ScoredPool,
        judgements: Judgements,
        parse: Callable[[Completion], T | None],
        prompt: str = "",
        schema: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Generator[list[Request], list[Completion], list[list[T] | None]]:
        """Per answer the verdicts that could be read, `evaluations` at most; None for an empty one, which is not asked
        about. prompt: default: the only one.
        """
        written = [place for place, answer in enumerate(row.answers) if answer.text.strip()]
        requests = []
        for place in written:
            request = self.ask_for(prompt or self.prompt(), row, schema, answer=row.answers[place].text, **variables)
            requests += [request.model_copy(update={"sample": k * MOST_ATTEMPTS}) for k in range(self.evaluations)]
        verdicts = yield from judgements.ask(requests, self.attempts, parse)
        of_answers: list[list[T] | None] = [None] * len(row.answers)
        for n, place in enumerate(written):
            of_answer = verdicts[n * self.evaluations : (n + 1) * self.evaluations]
            of_answers[place] = [verdict for verdict in of_answer if verdict is not None]
        return of_answers

    def ask_for(
        self, prompt: str, row: ScoredPool, schema: Mapping[str, Any] | None = None, **variables: Any
    ) -> Request:
        messages = load(prompt).render(row=row, **variables)
        return Request(role=self.role, messages=messages, sampling=self.sampling, optional=True, schema_=schema)

    def with_parts(
        self, row: ScoredPool, values: Values, parts: Mapping[str, Values], judgements: Judgements
    ) -> JudgedPool:
        """The pool with these scores, and, before them, those that they are made of: LABEL_PART each."""
        pool = self.with_score(row, values, judgements)
        *before, score = pool.scores
        of_parts = [
            score.model_copy(update={"scorer": part_label(self.label, part), "values": tuple(values_of)})
            for part, values_of in parts.items()
        ]
        return pool.model_copy(update={"scores": (*before, *of_parts, score)})


def with_rubrics(
    kind: Callable[..., ScoredPool], table: pa.Table, column: str, read: Callable[[Any], Any]
) -> tuple[list[ScoredPool], list[Dropped]]:
    """A table's pools as rows of a kind with a `rubric`, as `read` makes it of a column's value; those for which it
    raises Drop are dropped.
    """
    rows, dropped = read_rows(ScoredPool, table)
    rubrics = dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))
    pools = list[ScoredPool]()
    for row in rows:
        try:
            pools.append(kind(**row.__dict__, rubric=read(rubrics[row.id])))
        except Drop as drop:
            dropped.append(Dropped(id=row.id, reason=drop.reason, detail=drop.detail))
    return pools, dropped


def part_label(label: str, part: str) -> str:
    """What one of a scorer's several scores is called."""
    return f"{label}_{part}"


def mean_verdicts(verdicts: Sequence[Sequence[float] | None], lowest: float) -> list[float | None]:
    """Each answer's mean over its verdicts; None without any, and the lowest score for an empty answer."""
    return [lowest if of_answer is None else present_mean(of_answer) for of_answer in verdicts]


def mean_of_named(
    verdicts: Sequence[Sequence[Mapping[str, int]] | None], names: Sequence[str], lowest: float
) -> dict[str, list[float | None]]:
    """By name, what `mean_verdicts` makes of verdicts with several named scores."""

    def of_name(name: str) -> list[float | None]:
        numbers = [None if of_answer is None else [scores[name] for scores in of_answer] for of_answer in verdicts]
        return mean_verdicts(numbers, lowest)

    return {name: of_name(name) for name in names}
