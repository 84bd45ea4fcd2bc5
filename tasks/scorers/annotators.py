"""AlpacaFarm's pool of simulated annotators, who differ as people do: drawn for each pair, and noisy.

Source: docs/papers.md#alpacafarm.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Annotated, ClassVar, Literal, NamedTuple

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Request, Sampling
from synthmill.schemas.column_names import check_free
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import part_label
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, Judge, MaxTokens
from synthmill.tasks.scorers.labels import FIRST, SECOND, chances_of
from synthmill.tasks.scorers.matches import pairs_to_judge, verdict_of
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext
from synthmill.tasks.scorers.verdicts import TAG, present_mean

FIRST_WINS, TIE, SECOND_WINS = 1.0, 1.5, 2.0
NOISELESS = "noiseless"
LETTER_TOKENS = 8
Wording = Literal["brief", "criteria", "reasons", "reader"]
Wordings = Annotated[tuple[Wording, ...], Field(min_length=1, description="the prompts of tasks/prompts/annotators")]
Roles = Annotated[tuple[str, ...], Field(min_length=1, description="the roles in `engines` that annotate")]
Temperatures = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1, description="each annotator has one of them")
]
Noise = Annotated[
    float, Field(ge=0, le=0.5, description="the share of labels that come out wrong: twice as many are a coin's")
]
Opponents = Annotated[
    int, Field(ge=0, description="the next answers each is compared with, so it meets twice as many; 0: all")
]
WORDINGS: tuple[Wording, ...] = ("brief", "criteria", "reasons", "reader")


class Annotator(NamedTuple):
    """One of the pool."""

    wording: Wording
    role: str
    temperature: float

    @property
    def label(self) -> str:
        return f"{self.role}, {self.wording}, {self.temperature:g}"


class Annotation(Frozen):
    """What one annotator said of two answers, by their places: 1 for the first, 2 for the second, 1.5 for a tie.

    label: with noise; noiseless: without; null where a judgement could not be read. consistent: whether both orders
    agree.
    """

    first: int
    second: int
    annotator: str
    label: float | None
    noiseless: float | None
    consistent: bool


class AnnotatedPool(JudgedPool):
    """A pool with all its annotations."""

    annotations: tuple[Annotation, ...] = ()


class AnnotatorScores(Judge):
    """Pools -> the same with each answer's share of wins against others, each pair judged in both orders by one of a
    pool of annotators (wordings x roles x temperatures); LABEL_noiseless is the share without the noise.

    The annotator, and the noise, are drawn by the pair's prompt, its places and the seed. Orders that contradict each
    other are a tie, and so are equal texts, unasked and without noise. A pair that lacks a judgement does not count.
    """

    name: ClassVar = "annotator_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {f"annotators/{wording}": ("first", "second") for wording in WORDINGS}
    takes: ClassVar = ScoredPool
    makes: ClassVar = AnnotatedPool
    adds_own_columns: ClassVar = True
    figure_columns: ClassVar = ("annotations",)

    label: str = "annotators"
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=512)
    annotators: Roles = ("judge",)
    wordings: Wordings = WORDINGS
    temperatures: Temperatures = (1.0,)
    label_noise: Noise = 0.25
    opponents: Opponents = 0
    seed: int = 0

    def needs_roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.annotators))

    def requests_per_row(self) -> int:
        return 2 * len(pairs_to_judge(self.most_answers, self.opponents)) * self.attempts

    def check_columns(self, columns: pa.Schema) -> None:
        check_free(f"stage {self.name}", ("annotations",), columns.names)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        pool = [Annotator(*each) for each in product(self.wordings, self.annotators, self.temperatures)]
        texts, judgements = [answer.text for answer in row.answers], Judgements()
        pairs = pairs_to_judge(len(texts), self.opponents)
        draws = [random.Random(f"{self.seed} {row.id} {first} {second}") for first, second in pairs]
        annotators = [draw.choice(pool) for draw in draws]
        unlike = [n for n, (first, second) in enumerate(pairs) if texts[first] != texts[second]]
        requests = [
            self.ask(annotators[n], row, texts[i], texts[j]) for n in unlike for i, j in (pairs[n], pairs[n][::-1])
        ]
        verdicts = yield from judgements.ask(requests, self.attempts, first_wins)
        of_pair = dict(zip(unlike, zip(verdicts[::2], verdicts[1::2], strict=True), strict=True))
        annotations = tuple(
            self.annotation(pair, annotators[n], of_pair.get(n), draws[n]) for n, pair in enumerate(pairs)
        )
        scored = self.with_score(row, shares(annotations, "label", len(texts)), judgements)
        *before, score = scored.scores
        without = {
            "scorer": part_label(self.label, NOISELESS),
            "values": tuple(shares(annotations, NOISELESS, len(texts))),
        }
        scores = (*before, score.model_copy(update=without), score)
        return AnnotatedPool(**{**scored.__dict__, "scores": scores}, annotations=annotations)

    def ask(self, annotator: Annotator, row: ScoredPool, first: str, second: str) -> Request:
        limit = {} if annotator.wording == "reasons" else {"max_tokens": LETTER_TOKENS}
        return Request(
            role=annotator.role,
            messages=load(f"annotators/{annotator.wording}").render(row=row, first=first, second=second),
            sampling=self.sampling.model_copy(update={"temperature": annotator.temperature, **limit}),
            optional=True,
        )

    def annotation(
        self,
        pair: tuple[int, int],
        annotator: Annotator,
        verdicts: tuple[float | None, float | None] | None,
        draw: random.Random,
    ) -> Annotation:
        """verdicts: on the pair as it is and the other way round, 1 for A; None for equal texts."""
        forth, back = verdicts or (0.5, 0.5)
        noiseless = None if forth is None or back is None else SECOND_WINS - (forth + 1 - back) / 2
        return Annotation(
            first=pair[0],
            second=pair[1],
            annotator=annotator.label,
            label=self.noisy(noiseless, draw) if verdicts else noiseless,
            noiseless=noiseless,
            consistent=noiseless is not None and (noiseless != TIE or verdicts is None),
        )

    def noisy(self, label: float | None, draw: random.Random) -> float | None:
        """A label that a coin replaces in 2 x label_noise of all cases, so that label_noise of them come out wrong."""
        replaced, coin = draw.random() < 2 * self.label_noise, draw.choice((FIRST_WINS, SECOND_WINS))
        return coin if replaced and label is not None else label

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """Per annotator: its pairs, how often its two orders agree, and how often labels agree with those without noise
        where these are no tie.
        """
        frames = [batch["annotations"].explode(empty_as_null=False).struct.unnest() for batch in batches]
        annotations = pl.concat(frames).drop_nulls("noiseless")
        if not annotations.height:
            return []
        whole = annotations.with_columns(annotator=pl.lit("all"))
        by_annotator = pl.concat([annotations, whole]).group_by("annotator", maintain_order=True)
        decided = pl.col("noiseless") != TIE
        summary = by_annotator.agg(
            pairs=pl.len(),
            consistent=pl.col("consistent").mean(),
            ties=(~decided).mean(),
            agreement=(pl.col("label") == pl.col("noiseless")).filter(decided).mean(),
        )
        rows = [
            (name, f"{pairs:,}", *("" if share is None else f"{share:.1%}" for share in shares_of))
            for name, pairs, *shares_of in summary.sort("annotator").rows()
        ]
        heads = ("annotator", "pairs", "orders agree", "ties", "agree with the noiseless label")
        return [Figure(f"{self.label}: simulated annotators", heads, tuple(rows))]


class AnnotatorSettings(ScorerSettings):
    """The share of wins by a noisy pool of simulated annotators, who differ in wording, engine and temperature."""

    kind: Literal["annotators"] = "annotators"
    annotators: Roles = ("judge",)
    wordings: Wordings = WORDINGS
    temperatures: Temperatures = (1.0,)
    label_noise: Noise = 0.25
    opponents: Opponents = 0
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.annotators))

    @property
    def labels(self) -> tuple[str, ...]:
        return (part_label(self.label, NOISELESS), self.label)

    def stage(self, context: ScoringContext) -> AnnotatorScores:
        fields = ("annotators", "wordings", "temperatures", "label_noise", "opponents", "attempts")
        return AnnotatorScores(
            label=self.label,
            most_answers=context.most_answers,
            seed=context.seed,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed),
            **{name: getattr(self, name) for name in fields},
        )


def first_wins(completion: Completion) -> float | None:
    """1 for A, 0 for B: after [RESULT], or as the whole answer. None where nobody could be asked. Raises Drop."""
    if completion.error or TAG.search(completion.text):
        return verdict_of(completion)
    chances: Mapping[str, float] = chances_of(completion._replace(logprobs=None), FIRST + SECOND)
    if not chances:
        raise Drop("no_verdict: it named no better one; end with the letter A or B, and nothing after it")
    return chances[FIRST]


def shares(annotations: Sequence[Annotation], field: str, count: int) -> list[float | None]:
    """Each answer's mean share of wins, by one of an annotation's labels; None without any."""
    won: list[list[float]] = [[] for _ in range(count)]
    for annotation in annotations:
        if (label := getattr(annotation, field)) is not None:
            won[annotation.first].append(SECOND_WINS - label)
            won[annotation.second].append(label - FIRST_WINS)
    return [present_mean(wins) for wins in won]
