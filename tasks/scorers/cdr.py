"""CDR: how much likelier a strong model finds an answer than a weak one does. Source: docs/papers.md#cdr."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from operator import eq
from typing import Annotated, ClassVar, Literal, Self

import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from synthmill.schemas.calls import SCORING, Completion, Request, Sampling
from synthmill.schemas.column_names import check_free
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.engines.scored_answers import log_probability
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.cdr_domains import DOMAINS, Domain
from synthmill.tasks.scorers.each_answer import part_label
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, Judge, JudgeSettings
from synthmill.tasks.scorers.scoring import ScoringContext

ROUTED, PLAIN = "routed", "none"
PARTS = ("strong", "weak")
COLUMNS = ("cdr_domain", "cdr_missing")

Domains = Annotated[
    Mapping[str, Domain],
    Field(
        exclude_if=partial(eq, DOMAINS),
        description="name -> {about, criterion, exemplars: [{prompt, chosen, rejected}]}",
    ),
]
"""Not written where they are ours, which the stage's version covers: every score holds its settings."""
DomainChoice = Annotated[
    str, Field(description="routed: a model chooses for each prompt; none: no criterion; or the name of one for all")
]
PerToken = Annotated[bool, Field(description="divide each log probability by the answer's tokens in that model")]


class CdrPool(JudgedPool):
    """A pool with its domain, empty without one, and per answer why it has no score, empty where it has one."""

    cdr_domain: str = ""
    cdr_missing: tuple[str, ...] = ()


class CdrScores(Judge):
    """Pools -> the same, each answer's log probability under a strong model minus that under a weak one, both told the
    criterion and the exemplars of the prompt's domain. LABEL_strong and LABEL_weak are the two.

    per_token: each is a mean over the answer's tokens. An empty answer, one with a log probability missing, null or
    infinite, or the same in both models, token by token, and a prompt whose domain could not be read have no score;
    `cdr_missing` says why.
    """

    name: ClassVar = "cdr_scores"
    version: ClassVar = "1"
    roles: ClassVar = ("judge", "strong", "weak")
    prompts: ClassVar = {"cdr/route": ("domains",), "cdr/answer": ("domain",)}
    takes: ClassVar = ScoredPool
    makes: ClassVar = CdrPool
    adds_own_columns: ClassVar = True

    label: str = "cdr"
    strong: str = "strong"
    weak: str = "weak"
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=16)
    domain: DomainChoice = ROUTED
    domains: Domains = DOMAINS
    per_token: PerToken = False

    @model_validator(mode="after")
    def check_domain(self) -> Self:
        check_domain(self.domain, self.domains)
        return self

    def needs_roles(self) -> tuple[str, ...]:
        return roles_of(self.role, self.strong, self.weak, self.domain)

    def requests_per_row(self) -> int:
        return 2 * self.most_answers + (self.attempts if self.domain == ROUTED else 0)

    def check_columns(self, columns: pa.Schema) -> None:
        check_free(f"stage {self.name}", COLUMNS, columns.names)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements = Judgements()
        missing = ["" if answer.text.strip() else "empty_answer" for answer in row.answers]
        written = [place for place, reason in enumerate(missing) if not reason]
        domain: str | None = "" if self.domain in (ROUTED, PLAIN) else self.domain
        if self.domain == ROUTED and written:
            messages = load("cdr/route").render(row=row, domains=self.domains)
            names = tuple(self.domains)
            route = Request(role=self.role, messages=messages, sampling=self.sampling, choice=names, optional=True)
            [domain] = yield from judgements.ask([route], self.attempts, lambda reply: domain_of(reply, names))
        parts: dict[str, list[float | None]] = {part: [None] * len(row.answers) for part in PARTS}
        if domain is None:
            missing = [reason or "no_domain" for reason in missing]
        elif written:
            messages = load("cdr/answer").render(row=row, domain=self.domains.get(domain, Domain()))
            completions = yield [
                Request(role=role, messages=messages, sampling=SCORING, scored=row.answers[place].text, optional=True)
                for place in written
                for role in (self.strong, self.weak)
            ]
            for place, *pair in zip(written, completions[::2], completions[1::2], strict=True):
                try:
                    logs = [log_probability(completion, self.per_token) for completion in pair]
                    check_apart(*pair)
                    parts["strong"][place], parts["weak"][place] = logs
                except Drop as drop:
                    missing[place] = drop.message
                judgements.add(1, bool(missing[place]), missing[place])
        pairs = zip(*parts.values(), strict=True)
        ratios = [None if strong is None or weak is None else strong - weak for strong, weak in pairs]
        pool = self.with_score(row, ratios, judgements)
        *before, score = pool.scores
        of_parts = [
            score.model_copy(update={"scorer": part_label(self.label, part), "values": tuple(values)})
            for part, values in parts.items()
        ]
        fields = {**pool.__dict__, "scores": (*before, *of_parts, score)}
        return CdrPool(**fields, cdr_domain=domain or "", cdr_missing=tuple(missing))

    figure_columns: ClassVar = ("scores", *COLUMNS)

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """Prompts, scores and their mean by domain; why answers have no score."""
        prompts: dict[str, list[list[float]]] = {}
        reasons: dict[str, int] = {}
        for row in (row for batch in batches for row in batch.iter_rows(named=True)):
            values = next(score["values"] for score in row["scores"] if score["scorer"] == self.label)
            prompts.setdefault(row["cdr_domain"] or PLAIN, []).append([v for v in values if v is not None])
            for reason in filter(None, row["cdr_missing"]):
                name = reason.partition(":")[0]
                reasons[name] = reasons.get(name, 0) + 1
        rows = []
        for domain, pools in sorted(prompts.items()):
            scores = [value for pool in pools for value in pool]
            mean = f"{math.fsum(scores) / len(scores):.2f}" if scores else ""
            rows.append((domain, f"{len(pools):,}", f"{len(scores):,}", mean))
        by_domain = Figure(f"{self.label} by domain", ("domain", "prompts", "scores", "mean"), tuple(rows))
        counts = tuple((name, f"{count:,}") for name, count in sorted(reasons.items()))
        why = Figure(f"{self.label}: answers without a score", ("reason", "answers"), counts)
        return [figure for figure in (by_domain, why) if figure.rows]


class CdrSettings(JudgeSettings):
    """How much likelier a strong model finds an answer than a weak one, under its domain's criterion and exemplars."""

    kind: Literal["cdr"] = "cdr"
    role: str = Field("judge", description="the role in `engines` that names a prompt's domain", min_length=1)
    strong: str = Field("strong", description="the role of the better-aligned model", min_length=1)
    weak: str = Field("weak", description="the role of the less-aligned model", min_length=1)
    domain: DomainChoice = ROUTED
    domains: Domains = DOMAINS
    per_token: PerToken = False
    attempts: Attempts = 3

    @model_validator(mode="after")
    def check_domain(self) -> Self:
        check_domain(self.domain, self.domains)
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        return roles_of(self.role, self.strong, self.weak, self.domain)

    @property
    def compares(self) -> tuple[str, ...]:
        return (self.strong, self.weak)

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(part_label(self.label, part) for part in PARTS), self.label)

    def stage(self, context: ScoringContext) -> CdrScores:
        names = ("strong", "weak", "domain", "domains", "per_token", "attempts")
        sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=16, seed=context.seed)
        own = {name: getattr(self, name) for name in names}
        return CdrScores(**self.shared_fields(context), **own, sampling=sampling)


def roles_of(router: str, strong: str, weak: str, domain: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*([router] if domain == ROUTED else ()), strong, weak)))


def check_domain(domain: str, domains: Collection[str]) -> None:
    """Raises ValueError where the choice of a domain names none, or there is none to choose."""
    if domain == ROUTED and not domains:
        raise ValueError("domain: routed chooses among `domains`, which is empty; name some, or set domain: none")
    if domain not in (ROUTED, PLAIN, *domains):
        expected = ", ".join((ROUTED, PLAIN, *domains))
        raise ValueError(f"no domain is called {domain!r}; expected {expected}")


def domain_of(completion: Completion, names: Sequence[str]) -> str | None:
    """The domain that an answer names; None where the model could not be asked. Raises Drop for anything else."""
    if completion.error:
        return None
    name = completion.text.strip().strip("\"'`*.").lower()
    if name not in (by_name := {name.lower(): name for name in names}):
        raise Drop(f"no_domain: it was {name[:40]!r}; reply with one of {', '.join(names)} and nothing else")
    return by_name[name]


def check_apart(strong: Completion, weak: Completion) -> None:
    """Raises Drop where both models are one."""
    if strong.logprobs == weak.logprobs:
        raise Drop("same_model: strong and weak gave equal log probabilities; name two models in `engines`")
