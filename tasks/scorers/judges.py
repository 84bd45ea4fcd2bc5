"""Scorers that ask a model: a pool in, the same pool with one more score out.

Sources: docs/papers.md#rip (0 to 10, averaged), #expected-score, #self-judge (pairs in both orders, tournaments),
#prometheus (rubrics). Scores are missing (None) for what the judge could not be asked or never gave a readable answer.
"""

import math
import re
from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import orjson
from pydantic import Field

from schemas.calls import Completion, Request, Sampling
from schemas.errors import Drop
from schemas.hashing import digest
from schemas.multifaceted import Rubric
from schemas.pools import JudgedPool, Score, ScoredPool
from tasks.prompts import load
from tasks.recipe import MOST_ATTEMPTS, Recipe, Steps
from tasks.scorers.judgements import Judgements
from tasks.scorers.verdicts import HIGHEST, LOWEST, TAG, judgement_of, present_mean

FIRST, SECOND = "A", "B"
DIGITS = "0123456789"
MOST_ALTERNATIVES = 20
TOKENS_BEFORE = 4  # a mark or a space may come before the label
GOES_ON = re.compile(r"\w|\s*[.,/:&–−-]\s*(?:\d|[AB]\b)|\s+(?:or|and|to|of|out of)\b")
"""What follows a label that is not the whole verdict: 10, 8.5, 8/10, 7-9, A/B, A or B."""
SIGNS = ("-", "−", ".", ",")  # -3, .5
ARTICLE = re.compile(r"\s+(?!is\b|because\b|wins\b|as\b)[a-z]+\s+[a-z]")
"""What follows an A that is an article: A good answer ..."""


class Judge(Recipe[ScoredPool, JudgedPool]):
    """What judges share. label: the score's name; role: who judges."""

    prompts: ClassVar[dict[str, tuple[str, ...]]] = {}

    label: str = "judge"
    role: str = "judge"
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    most_answers: int = Field(1, ge=1, exclude=True, description="of a pool, for plans")

    def needs_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def ask(self, row: ScoredPool, sample: int, **variables: Any) -> Request:
        [prompt] = self.asked_with()
        messages = load(prompt).render(row=row, **variables)
        return Request(role=self.role, messages=messages, sampling=self.sampling, sample=sample, optional=True)

    def asked_with(self) -> tuple[str, ...]:
        """The one prompt that these settings use."""
        return tuple(self.prompts)

    def scored(self, row: ScoredPool, values: Sequence[float | None], judgements: Judgements) -> JudgedPool:
        """The pool with these scores. A pool without any stays: another score may be the one that counts."""
        settings = {"scorer": self.name, "version": self.version, **self.model_dump(mode="json", exclude={"label"})}
        score = Score(scorer=self.label, settings=orjson.dumps(settings).decode(), values=tuple(values))
        return JudgedPool(**{**row.__dict__, "scores": (*row.scores, score), **judgements.columns()})


class DirectScores(Judge):
    """Each answer from 0 to 10, or from 1 to 5 under a rubric: the mean over `evaluations`. An empty answer gets the
    lowest, unasked.
    """

    name: ClassVar = "direct_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"pools/score": ("answer", "rubric"), "pools/rubric": ("answer", "rubric")}

    evaluations: int = Field(10, ge=1)
    rubric: Rubric | None = None

    def asked_with(self) -> tuple[str, ...]:
        return ("pools/rubric",) if self.rubric else ("pools/score",)

    def requests_per_row(self) -> int:
        return self.most_answers * self.evaluations * self.attempts

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        lowest, highest = (LOWEST, HIGHEST) if self.rubric else (0, 10)
        asked = [n for n, answer in enumerate(row.answers) if answer.text.strip()]
        requests = []
        for n in asked:
            request = self.ask(row, 0, answer=row.answers[n].text, rubric=self.rubric)
            requests += [request.model_copy(update={"sample": k * MOST_ATTEMPTS}) for k in range(self.evaluations)]
        judgements = Judgements()
        found = yield from judgements.ask(requests, self.attempts, lambda said: judgement_of(said, lowest, highest))
        values: list[float | None] = [float(lowest)] * len(row.answers)
        for place, n in enumerate(asked):
            mine = found[place * self.evaluations : (place + 1) * self.evaluations]
            values[n] = present_mean([one[1] if one else None for one in mine])
        return self.scored(row, values, judgements)


class ExpectedScores(Judge):
    """Each answer from 0 to 9: the expected digit under the probabilities of the judge's one token, from one call; the
    digit itself where the engine gives no logprobs. An empty answer scores 0, unasked. Source:
    docs/papers.md#expected-score.
    """

    name: ClassVar = "expected_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"pools/digit": ("answer",)}

    def requests_per_row(self) -> int:
        return self.most_answers

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        asked = [n for n, answer in enumerate(row.answers) if answer.text.strip()]
        requests = [self.ask(row, 0, answer=row.answers[n].text) for n in asked]
        judgements = Judgements()
        expected = yield from judgements.ask(requests, 1, expected_digit)
        values: list[float | None] = [0.0] * len(row.answers)
        for n, value in zip(asked, expected, strict=True):
            values[n] = value
        return self.scored(row, values, judgements)


class Comparing(Judge):
    """What compares two answers: by one letter and its probability, or, with a rubric, by a verdict with reasons."""

    prompts: ClassVar = {
        "pools/compare": ("first", "second", "rubric"),
        "pools/prefer": ("first", "second", "rubric"),
    }

    rubric: Rubric | None = None

    def asked_with(self) -> tuple[str, ...]:
        return ("pools/prefer",) if self.rubric else ("pools/compare",)

    def judged(
        self, row: ScoredPool, matches: Sequence[tuple[int, int]], judgements: Judgements
    ) -> Generator[list[Request], list[Completion], list[float | None]]:
        """Per match, the first answer's chance to win. Equal texts tie, unasked."""
        open_ = [n for n, (i, j) in enumerate(matches) if row.answers[i].text != row.answers[j].text]
        requests = [
            self.ask(row, 0, first=row.answers[i].text, second=row.answers[j].text, rubric=self.rubric)
            for n in open_
            for i, j in (matches[n], matches[n][::-1])
        ]
        attempts, parse = (self.attempts, verdict_of) if self.rubric else (1, chance_of_first)
        found = yield from judgements.ask(requests, attempts, parse)
        chances: list[float | None] = [0.5] * len(matches)
        for n, forth, back in zip(open_, found[::2], found[1::2], strict=True):
            chances[n] = None if forth is None or back is None else (forth + 1 - back) / 2
        return chances


class PairwiseScores(Comparing):
    """Each answer's mean chance to win against others, each match judged in both orders.

    A match is worth the mean of both orders' probabilities for the answer (1 or 0 each where the engine gives no
    logprobs), so two orders that contradict each other make a tie, 0.5 for both. opponents: the next answers of the
    pool that each is compared with, so that it meets twice as many; 0: all. A match with a judgement missing counts for
    neither.
    """

    name: ClassVar = "pairwise_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)

    opponents: int = Field(0, ge=0)

    def matches(self, count: int) -> list[tuple[int, int]]:
        """Who meets whom: all, or each the next ones in a ring."""
        if not self.opponents or 2 * self.opponents >= count - 1:
            return [(one, other) for one in range(count) for other in range(one + 1, count)]
        return [(one, (one + n) % count) for one in range(count) for n in range(1, self.opponents + 1)]

    def requests_per_row(self) -> int:
        return 2 * len(self.matches(self.most_answers)) * (self.attempts if self.rubric else 1)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        matches, judgements = self.matches(len(row.answers)), Judgements()
        won: list[list[float]] = [[] for _ in row.answers]
        for (one, other), chance in zip(matches, (yield from self.judged(row, matches, judgements)), strict=True):
            if chance is not None:
                won[one].append(chance)
                won[other].append(1 - chance)
        return self.scored(row, [present_mean(chances) for chances in won], judgements)


class TournamentScores(Comparing):
    """Each answer's rounds in a knock-out: n - 1 matches, both orders each, and the one that stays has the most.

    The order is drawn by the pool's id; an odd one goes on without a match. A tie, and a match without a judgement,
    goes to the lower place. Source: docs/papers.md#self-judge.
    """

    name: ClassVar = "tournament_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)

    def requests_per_row(self) -> int:
        return 2 * (self.most_answers - 1) * (self.attempts if self.rubric else 1)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        rounds, judgements = [0.0] * len(row.answers), Judgements()
        left = sorted(range(len(row.answers)), key=lambda n: digest(["tournament", row.id, n]))
        judged = len(left) < 2
        while len(left) > 1:
            matches = [(min(pair), max(pair)) for pair in zip(left[::2], left[1::2], strict=False)]
            chances = yield from self.judged(row, matches, judgements)
            judged = judged or any(chance is not None for chance in chances)
            after = [
                other if chance is not None and chance < 0.5 else one
                for (one, other), chance in zip(matches, chances, strict=True)
            ]
            left = after + left[2 * len(matches) :]
            for n in left:
                rounds[n] += 1
        return self.scored(row, rounds if judged else [None] * len(rounds), judgements)


def expected_digit(said: Completion) -> float | None:
    """The mean digit under the judge's probabilities; None where it gave no digit."""
    chances = chances_of(said, DIGITS)
    return sum(int(digit) * chance for digit, chance in chances.items()) if chances else None


def chance_of_first(said: Completion) -> float | None:
    """The probability of A over B; None where the judge named neither."""
    return chances_of(said, FIRST + SECOND).get(FIRST)


def chances_of(said: Completion, labels: str) -> dict[str, float]:
    """The probabilities of one-letter labels, of their sum: where the answer's first label stands, or, if it has none,
    among the alternatives to its first token. Without logprobs, and where those are null, 1 for the label that the text
    begins with. Empty where there is none, and where the answer goes on to something else (10, 8.5, A or B).
    """
    if said.error:
        return {}
    tokens = [(str(token), logprob, alternatives) for token, logprob, alternatives in said.logprobs or ()]
    tokens = tokens[:TOKENS_BEFORE]
    at = next((n for n, token in enumerate(tokens) if token[0].strip() in tuple(labels)), None)
    before, after = ("".join(token[0] for token in some) for some in (tokens[:at], tokens[(at or 0) + 1 :]))
    if at is not None and (before.endswith(SIGNS) or goes_on(after, labels)):
        return {}
    if tokens:
        token, own, alternatives = tokens[at or 0]
        weight = dict.fromkeys(labels, 0.0)
        for other, logprob in {**(alternatives or {}), token: own}.items():
            if (label := other.strip()) in weight and logprob is not None:
                weight[label] += math.exp(min(logprob, 0.0))
        if (total := sum(weight.values())) > 0:
            return {label: chance / total for label, chance in weight.items()}
    start = said.text.strip().lstrip("*([\"'")
    if start[:1] and start[0] in labels and not goes_on(start[1:], labels):
        return {label: float(label == start[0]) for label in labels}
    return {}


def goes_on(following: str, labels: str) -> bool:
    """Whether a label is not the whole verdict, by what follows it."""
    return bool(GOES_ON.match(following) or (FIRST in labels and ARTICLE.match(following)))


def verdict_of(said: Completion) -> float | None:
    """1 for A, 0 for B after the last [RESULT], None where the judge could not be asked. Raises Drop for neither."""
    if said.error:
        return None
    *before, verdict = TAG.split(said.text)
    letter = verdict.strip(" \n:*()[].\"'")
    if not before or letter not in (FIRST, SECOND):
        raise Drop("no_verdict: it named no better one; end with [RESULT] and the letter A or B, and nothing after it")
    return float(letter == FIRST)


def one_token(sampling: Sampling) -> Sampling:
    """How a label is asked for: the likeliest token, with its alternatives."""
    return sampling.model_copy(
        update={"temperature": 0.0, "top_p": 1.0, "max_tokens": TOKENS_BEFORE, "logprobs": MOST_ALTERNATIVES}
    )
