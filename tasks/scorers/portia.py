"""PORTIA: answers whose comparison depends on their order are split into aligned parts and compared again.

Source: docs/papers.md#portia.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, part_label
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import JudgeSettings
from synthmill.tasks.scorers.labels import LEAST_MASS, LeastMass, one_token
from synthmill.tasks.scorers.matches import chance_of_first
from synthmill.tasks.scorers.pairwise import PairwiseScores
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import present_mean
from synthmill.tasks.texts.aligned_parts import Parts, split_alike, split_evenly

PARTS = ("before", "after")
Match = tuple[int, int]
Orders = tuple[float, float]
"""The first answer's chance to win where it stands first, and where it stands second."""


class PortiaScores(AnswerJudge):
    """Pools -> the same with each answer's mean chance to win, as `pairwise_scores` has it; a match whose two orders
    disagree is asked again, with both answers in `parts` parts of even length, and where that disagrees, too, in
    parts that are alike.

    LABEL_before and LABEL_after are the shares of an answer's matches whose orders agree without parts, and in the end.
    An answer with too few sentences is not split.
    """

    name: ClassVar = "portia_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"pools/compare": ("first", "second"), "portia/compare": ("parts",)}
    figure_columns: ClassVar = ("scores",)

    label: str = "portia"
    parts: int = Field(3, ge=2, le=6)
    opponents: int = Field(0, ge=0)
    least_mass: LeastMass = LEAST_MASS
    sampling: Sampling = one_token(0)

    def matches(self, count: int) -> list[Match]:
        return PairwiseScores(opponents=self.opponents).matches(count)

    def requests_per_row(self) -> int:
        return 6 * len(self.matches(self.most_answers))

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        texts, judgements = [answer.text for answer in row.answers], Judgements()
        matches = [(i, j) for i, j in self.matches(len(texts)) if texts[i] != texts[j]]
        orders_of: tuple[Mapping[Match, Any], ...] = tuple(
            {match: dict(zip(sides, (texts[place] for place in match), strict=True)) for match in matches}
            for sides in (("first", "second"), ("second", "first"))
        )
        before = yield from self.judge(row, "pools/compare", orders_of, judgements)
        after = dict(before)
        for split in (self.evenly, self.alike):
            pairs = {
                match: pair
                for match, orders in after.items()
                if not agree(orders) and (pair := split(texts[match[0]], texts[match[1]]))
            }
            orders_of = tuple(
                {match: {"parts": list(zip(*pair[::step], strict=True))} for match, pair in pairs.items()}
                for step in (1, -1)
            )
            after |= yield from self.judge(row, "portia/compare", orders_of, judgements)
        return self.with_parts(row, *self.scores_and_parts(len(texts), before, after), judgements)

    def judge(
        self, row: ScoredPool, prompt: str, orders_of: Sequence[Mapping[Match, Any]], judgements: Judgements
    ) -> Generator[list[Request], list[Completion], dict[Match, Orders]]:
        """Both orders of each match that could be read. orders_of: the prompt's variables by match, forth and back."""
        requests = [self.ask_for(prompt, row, **order[match]) for match in orders_of[0] for order in orders_of]
        if not requests:
            return {}

        def read(completion: Completion) -> float | None:
            return chance_of_first(completion, self.least_mass)

        chances = yield from judgements.ask(requests, 1, read)
        orders = zip(orders_of[0], chances[::2], chances[1::2], strict=True)
        return {match: (a, 1 - b) for match, a, b in orders if a is not None and b is not None}

    def evenly(self, first: str, second: str) -> tuple[Parts, Parts] | None:
        parts = split_evenly(first, self.parts), split_evenly(second, self.parts)
        return (parts[0], parts[1]) if parts[0] and parts[1] else None

    def alike(self, first: str, second: str) -> tuple[Parts, Parts] | None:
        return split_alike(first, second, self.parts)

    def scores_and_parts(
        self, count: int, before: Mapping[Match, Orders], after: Mapping[Match, Orders]
    ) -> tuple[list[float | None], dict[str, list[float | None]]]:
        won: list[list[float]] = [[] for _ in range(count)]
        agreed: dict[str, list[list[float]]] = {part: [[] for _ in range(count)] for part in PARTS}
        for (first, second), orders in after.items():
            chance = sum(orders) / 2
            won[first].append(chance)
            won[second].append(1 - chance)
        for part, verdicts in zip(PARTS, (before, after), strict=True):
            for match, orders in verdicts.items():
                for place in match:
                    agreed[part][place].append(float(agree(orders)))
        return [present_mean(wins) for wins in won], {
            part: [present_mean(shares) for shares in of_answers] for part, of_answers in agreed.items()
        }

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """How often both orders agreed, before and after."""
        shares: dict[str, list[float]] = {part: [] for part in PARTS}
        for row in (row for batch in batches for row in batch.iter_rows(named=True)):
            values = {score["scorer"]: score["values"] for score in row["scores"]}
            for part, of_part in shares.items():
                of_part += [value for value in values.get(part_label(self.label, part), ()) if value is not None]
        rows = tuple((part, f"{sum(values) / len(values):.1%}") for part, values in shares.items() if values)
        about = "Shares of comparisons whose two orders name the same answer, before and after answers are split."
        return [Figure(f"{self.label}: consistency", ("parts", "both orders agree"), rows, about=about)] if rows else []


class PortiaSettings(JudgeSettings):
    """Chances to win, 0 to 1; comparisons that depend on the order are made again with both answers in parts."""

    kind: Literal["portia"] = "portia"
    parts: int = Field(3, ge=2, le=6, description="parts of each answer; the paper's 3")
    opponents: int = Field(0, ge=0, description="the next answers each is compared with; 0: all")
    least_mass: LeastMass = LEAST_MASS

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(part_label(self.label, part) for part in PARTS), self.label)

    def stage(self, context: ScoringContext) -> PortiaScores:
        own = {name: getattr(self, name) for name in ("parts", "opponents", "least_mass")}
        return PortiaScores(**self.shared_fields(context), **own, sampling=one_token(context.seed))


def agree(orders: Sequence[float]) -> bool:
    """Whether both orders name the same answer."""
    return all(chance > 0.5 for chance in orders) or all(chance < 0.5 for chance in orders)
