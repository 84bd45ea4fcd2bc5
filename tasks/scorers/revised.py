"""RevisEval: each answer, revised with the instruction, is the reference that it is judged against.

Source: docs/papers.md#reviseval.
"""

import re
from collections.abc import Mapping, Sequence
from operator import not_
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, part_label
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import LOWEST, judgement_of, present_mean
from synthmill.tasks.texts.words import rouge_l
from synthmill.tasks.vectors.embeddings import embedder_name
from synthmill.tasks.vectors.token_matching import matching_f1, token_vectors

REVISED = re.compile(r"<revised>\s*(.*?)\s*</revised>", re.DOTALL)
ROUGE, EMBEDDED = "rouge", "embedded"


class RevisedPool(JudgedPool):
    """A judged pool with its answers' revisions, in memory only; None where there is none."""

    revisions: tuple[str | None, ...]


class RevisedScores(AnswerJudge):
    """Pools -> the same, each answer judged from 1 to 5 against its own revision, averaged over `evaluations`; and
    LABEL_rouge, its ROUGE-L with that, 0 to 1. With an `embedder`, LABEL_embedded, too: how alike both are, token by
    token, 0 to 1.

    reviser: the role that revises. An empty answer gets the lowest of all without a call; an answer that could not be
    revised has none.
    """

    name: ClassVar = "revised_scores"
    version: ClassVar = "2"
    roles: ClassVar = ("judge", "reviser")
    prompts: ClassVar = {"revised/revise": ("answer",), "revised/score": ("answer", "reference")}

    label: str = "reviseval"
    reviser: str = "reviser"
    embedder: str = Field("", exclude_if=not_, description="minilm, or another; default: no LABEL_embedded")
    revising: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=2048)
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=512)

    def needs_roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, self.reviser)))

    def requests_per_row(self) -> int:
        return self.most_answers * (1 + self.evaluations) * self.attempts

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        identity = super().identity(engines)
        return {**identity, "embedder": embedder_name(self.embedder)} if self.embedder else identity

    def to_table(self, rows: Sequence[JudgedPool]) -> pa.Table:
        return super().to_table([self.with_likeness(row) if isinstance(row, RevisedPool) else row for row in rows])

    def with_likeness(self, row: RevisedPool) -> JudgedPool:
        """The pool with LABEL_embedded among the parts of its score, behind LABEL_rouge."""
        texts = [answer.text for answer in row.answers]
        revised = [place for place, revision in enumerate(row.revisions) if revision]
        pairs = [text or "" for place in revised for text in (texts[place], row.revisions[place])]
        vectors = token_vectors(self.embedder, pairs)
        values: list[float | None] = [None if text.strip() else 0.0 for text in texts]
        for place, answer, revision in zip(revised, vectors[::2], vectors[1::2], strict=True):
            values[place] = matching_f1(answer, revision)
        *before, score = row.scores
        part = score.model_copy(update={"scorer": part_label(self.label, EMBEDDED), "values": tuple(values)})
        return row.model_copy(update={"scores": (*before, part, score)})

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements, texts = Judgements(), [answer.text for answer in row.answers]
        written = [place for place, text in enumerate(texts) if text.strip()]
        reviser = {"role": self.reviser, "sampling": self.revising}
        requests = [
            self.ask_for("revised/revise", row, answer=texts[place]).model_copy(update=reviser) for place in written
        ]
        revisions = (yield from judgements.ask(requests, self.attempts, revision_of)) if requests else []
        references = {place: text for place, text in zip(written, revisions, strict=True) if text}
        requests = []
        for place, reference in references.items():
            request = self.ask_for("revised/score", row, answer=texts[place], reference=reference)
            requests += [request.model_copy(update={"sample": k * MOST_ATTEMPTS}) for k in range(self.evaluations)]
        verdicts = (yield from judgements.ask(requests, self.attempts, judgement_of)) if requests else []
        values: list[float | None] = [None if text.strip() else float(LOWEST) for text in texts]
        rouge: list[float | None] = [None if text.strip() else 0.0 for text in texts]
        for n, (place, reference) in enumerate(references.items()):
            of_answer = verdicts[n * self.evaluations : (n + 1) * self.evaluations]
            values[place] = present_mean([verdict[1] if verdict else None for verdict in of_answer])
            rouge[place] = rouge_l(texts[place], reference)
        pool = self.with_parts(row, values, {ROUGE: rouge}, judgements)
        revised = [references.get(place) for place in range(len(texts))]
        return RevisedPool(**pool.__dict__, revisions=tuple(revised)) if self.embedder else pool


class RevisedSettings(JudgeSettings):
    """Scores from 1 to 5 against each answer's own revision, which a model writes as the reference."""

    kind: Literal["reviseval"] = "reviseval"
    reviser: str = Field("reviser", min_length=1, description="the role in `engines` that revises")
    evaluations: int = Field(1, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    revision_tokens: int = Field(2048, ge=1, le=1 << 20, description="of a revised answer at most")
    temperature: float = Field(1.0, ge=0, description="how far the judgements of an answer may differ")
    embedded: bool = Field(
        False, description="whether there is LABEL_embedded: BERTScore's F1 with the revision, by the run's embedder"
    )

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, self.reviser)))

    @property
    def labels(self) -> tuple[str, ...]:
        parts = (ROUGE, EMBEDDED) if self.embedded else (ROUGE,)
        return (*(part_label(self.label, part) for part in parts), self.label)

    def stage(self, context: ScoringContext) -> RevisedScores:
        judging = Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed)
        revising = Sampling(temperature=0.0, top_p=1.0, max_tokens=self.revision_tokens, seed=context.seed)
        own: dict[str, Any] = {"reviser": self.reviser, "evaluations": self.evaluations, "attempts": self.attempts}
        own |= {"embedder": context.embedder} if self.embedded else {}
        return RevisedScores(**self.shared_fields(context), **own, sampling=judging, revising=revising)


def revision_of(completion: Completion) -> str | None:
    """The text between the tags; None where the reviser could not be asked. Raises Drop for none, an empty one, two."""
    if completion.error:
        return None
    texts = REVISED.findall(completion.text)
    if len(texts) != 1 or not texts[0]:
        cut = "; it was cut, because it was too long" if completion.finish_reason == "length" else ""
        raise Drop(f"no_revision: it had {len(texts) or 'no'} revised responses{cut}; write one between the tags")
    return str(texts[0])
