"""From queries with their passage, the same query as different searchers mean it, each with a passage of its own.

Source: docs/papers.md#instructir.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import ENGINES, EngineSettings, QuestionSettings, StageSampling
from synthmill.schemas.texts import normalised, one_line
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.rows import QUESTIONS
from synthmill.storage.published.by_columns import TableForm, table_of
from synthmill.storage.published.configurations import Dataset, Figure
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import KEPT, stream_of
from synthmill.tasks.dedup.contamination import CleanRows
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_each, ask_until, read_json
from synthmill.tasks.scorers.verdicts import judgement_of
from synthmill.tasks.texts.prompt_faults import further_scripts, repeated_share

SEARCHERS, FEWEST = 10, 2
"""Searchers of a query: those of the paper, and the fewest that can be told apart."""


class Searchers(Question):
    """A query (`prompt`) with its passage (`reference`), searchers who mean it differently, and what each looks for."""

    scenarios: tuple[str, ...]
    targets: tuple[str, ...]


class CheckedSearchers(Searchers):
    """The same after a judge. relevance: from 1 to 5, of each target to its own searcher; choices: the place of the
    target that fits a searcher best, of all; None where the judge said nothing that could be read.
    """

    relevance: tuple[int | None, ...]
    choices: tuple[int | None, ...]


class SearchScenarios(Recipe[Question, Searchers]):
    """Query with passage -> up to `count` searchers in the first person, from one answer, then for each the passage,
    revised so that it serves this searcher.

    Drops: no_passage, bad_scenarios, too_few_targets.
    """

    name: ClassVar = "search_scenarios"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"instructir/scenarios": ("count",), "instructir/target": ("scenario",)}

    count: int = Field(SEARCHERS, ge=FEWEST)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return (1 + self.count) * self.attempts

    def steps(self, row: Question) -> Steps[Searchers]:
        if not row.reference.strip():
            raise Drop("no_passage: the query has no passage; expected one in the reference column")
        texts = {"type": "array", "items": {"type": "string"}, "minItems": FEWEST, "maxItems": self.count}
        asked = Request(
            role="teacher",
            messages=load("instructir/scenarios").render(row=row, count=self.count),
            sampling=self.sampling,
            schema_={"type": "object", "properties": {"searchers": texts}, "required": ["searchers"]},
        )
        scenarios = yield from ask_until(asked, self.attempts, lambda reply: read_scenarios(reply, self.count))
        revise = load("instructir/target")
        requests = [
            Request(
                role="teacher",
                messages=revise.render(row=row, scenario=scenario),
                sampling=self.sampling,
                optional=True,
            )
            for scenario in scenarios
        ]
        targets, faults = yield from ask_each(
            requests,
            self.attempts,
            lambda _, reply: read_target(reply, row.reference),
            partial(same_targets, row.reference),
        )
        pairs = [
            (scenario, target)
            for place, (scenario, target) in enumerate(zip(scenarios, targets, strict=True))
            if target and place not in faults
        ]
        if len(pairs) < FEWEST:
            raise Drop(f"too_few_targets: {len(pairs)}; the first fault: {faults[min(faults)]}")
        written, passages = zip(*pairs, strict=True)
        return Searchers.child_of(row, self.name, scenarios=written, targets=passages)


def read_scenarios(completion: Completion, most: int) -> tuple[str, ...]:
    """The different texts of an answer's list. Raises Drop for fewer than two."""
    listed = read_json(completion, "bad_scenarios").get("searchers")
    lines = [one_line(text) for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
    different = {normalised(line): line for line in lines if len(line.split()) > 2}
    if len(different) < FEWEST:
        raise Drop(f"bad_scenarios: there were {len(different)} different searchers; write at least {FEWEST}")
    return tuple(different.values())[:most]


def read_target(completion: Completion, passage: str) -> str:
    """A passage. Raises Drop for one that is empty, cut, says the same again, or mixes in a script that the first
    passage has not.
    """
    if completion.error or completion.finish_reason == "length":
        raise Drop(completion.error or "cut: it was too long; be shorter")
    if not (text := completion.text.strip()):
        raise Drop("empty: there was no passage; write one")
    if repeated_share(text) > 0.5:
        raise Drop("repeats_itself: most of it says the same words again; say each thing once")
    if mixed_in := further_scripts(text, (passage,)):
        raise Drop(f"mixes_languages: it mixed in {' and '.join(mixed_in)} letters; write one language")
    return text


def same_targets(passage: str, targets: Sequence[str | None]) -> dict[int, Drop]:
    """The faults of targets that are the passage as it was, or one before them."""
    texts, faults = {normalised(passage)}, dict[int, Drop]()
    for place, target in enumerate(targets):
        if target and normalised(target) in texts:
            faults[place] = Drop("unchanged: it was the passage as before, or another searcher's; change what it tells")
        texts.add(normalised(target or ""))
    return faults


class SearchChecks(Recipe[Searchers, CheckedSearchers]):
    """Searchers -> the same with a judge's verdicts: how relevant each target is to its searcher, and which of all the
    targets fits a searcher best, in an order drawn by the row's id.
    """

    name: ClassVar = "search_checks"
    version: ClassVar = "2"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"instructir/relevance": ("scenario", "target"), "instructir/choice": ("scenario", "targets")}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return 2 * SEARCHERS * self.attempts

    def steps(self, row: Searchers) -> Steps[CheckedSearchers]:
        count = len(row.scenarios)
        orders = [sorted(range(count), key=lambda place: digest([row.id, n, place])) for n in range(count)]
        scoring, choosing = load("instructir/relevance"), load("instructir/choice")
        numbers = {"type": "object", "properties": {"passage": {"type": "integer", "minimum": 1, "maximum": count}}}
        requests = [
            Request(
                role="judge",
                messages=scoring.render(row=row, scenario=scenario, target=target),
                sampling=self.sampling,
                optional=True,
            )
            for scenario, target in zip(row.scenarios, row.targets, strict=True)
        ]
        for scenario, order in zip(row.scenarios, orders, strict=True):
            messages = choosing.render(row=row, scenario=scenario, targets=[row.targets[place] for place in order])
            form = {**numbers, "required": ["passage"], "additionalProperties": False}
            requests.append(
                Request(role="judge", messages=messages, sampling=self.sampling, schema_=form, optional=True)
            )

        def parse(place: int, completion: Completion) -> int | None:
            if place < count:
                verdict = judgement_of(completion)
                return verdict[1] if verdict else None
            number = None if completion.error else read_json(completion, "no_choice").get("passage")
            if not isinstance(number, int) or not 1 <= number <= count:
                raise Drop(f"no_choice: {number!r} is no passage; expected a number from 1 to {count}")
            return orders[place - count][number - 1]

        verdicts, _ = yield from ask_each(requests, self.attempts, parse)
        return CheckedSearchers.child_of(row, self.name, relevance=verdicts[:count], choices=verdicts[count:])


class InstructedQueries(FrameStage):
    """Checked searchers -> a row per searcher: `anchor` (searcher and query), `positive` (the target), `negative`
    (another searcher's, drawn by id), `fault`: empty where it is good, else unread (the judge's answer), not_relevant
    (below `least`) or another_first. `group`: the query's id; a model's robustness is the worst of a group.
    """

    name: ClassVar = "instructed_queries"
    version: ClassVar = "2"
    needs: ClassVar = ("id", "prompt", "scenarios", "targets", "relevance", "choices")
    adds: ClassVar = (
        *("id", "parent_id", "anchor", "positive", "negative", "query", "scenario", "fault", "group"),
        "relevance",
    )

    least: int = Field(4, ge=1, le=5, description="relevance from which a target counts; ours")

    def rows_per_row(self) -> int:
        return SEARCHERS

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows = list[tuple[Any, ...]]()
        for row_id, query, scenarios, targets, relevance, choices in frame.select(self.needs).rows():
            for n, (scenario, target) in enumerate(zip(scenarios, targets, strict=True)):
                others = [place for place in range(len(targets)) if place != n]
                negative = targets[min(others, key=lambda place: digest([row_id, n, place]))]
                fault = self.fault(relevance[n], is_first=choices[n] == n)
                ids = (child_id(row_id, n), row_id)
                texts = (f"{scenario}\n{query}", target, negative, query, scenario, fault, row_id)
                rows.append((*ids, *texts, relevance[n]))
        schema = {**dict.fromkeys(self.adds[:-1], pl.String), "relevance": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row"), []

    def fault(self, relevance: int | None, *, is_first: bool) -> str:
        if relevance is None:
            return "unread"
        return "not_relevant" if relevance < self.least else "" if is_first else "another_first"


class InstructIrSettings(PublishSettings):
    """One run of `instructir`: queries with passages -> searchers -> revised passages -> checks -> triplets."""

    source: QuestionSettings = Field(description="queries in prompt_column, passages in reference_column")
    engines: dict[Literal["teacher", "judge"], EngineSettings] = ENGINES
    searchers: int = Field(SEARCHERS, ge=FEWEST, description="of a query; the paper's 10")
    least: int = Field(4, ge=1, le=5, description="relevance from which a target counts; ours")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    writing: StageSampling = StageSampling(temperature=1.0, top_p=1.0, max_tokens=2048)


def plan(settings: InstructIrSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in ("teacher", "judge")}
    settings = settings.model_copy(update={"engines": roles})
    source = file_source(store, settings.source, settings.rows_per_part, QUESTIONS)
    judging = Sampling(temperature=0.0, top_p=1.0, max_tokens=512, seed=settings.seed)
    stages = chain(
        roles,
        source.key,
        SearchScenarios(
            sampling=settings.sampling(settings.writing), count=settings.searchers, attempts=settings.attempts
        ),
        SearchChecks(sampling=judging, attempts=settings.attempts),
        InstructedQueries(least=settings.least),
    )
    texts = ("anchor", "positive")
    comparison = Comparison(CleanRows, UniqueRows, columns=texts, texts=texts)
    cleaning = clean("instructir", settings, store, stages[-1].key, comparison)
    return Plan(
        "instructir",
        settings,
        store,
        source,
        [*stages, *cleaning.stages],
        lambda manifests: instructir_dataset(store, manifests),
        trunk="unique_rows",
        others=cleaning.sources,
    )


def instructir_dataset(store: Store, manifests: Mapping[str, Manifest]) -> Dataset:
    """Triplets of the searchers that passed both checks, all searchers, and what the checks left out."""
    rows = stream_of(store, manifests["unique_rows"])
    good = rows.filter(KEPT & (pl.col("fault") == ""))
    every = TableForm(kind="other", about="every searcher; `fault`: why a check left it out")
    about = "a searcher and a query, the passage that serves them, and one that serves another searcher"
    return Dataset(
        "Queries with instructions",
        "Queries as different searchers mean them, each with a passage that serves this searcher.",
        {
            "triplets": table_of(good, form=TableForm(kind="triplets", about=about)),
            "all": table_of(rows, form=every),
        },
        figures=[Figure("What the checks made of searchers", ("verdict", "searchers"), verdict_counts(rows, good))],
    )


def verdict_counts(rows: RowStream, good: RowStream) -> tuple[tuple[str, ...], ...]:
    """How many searchers passed, how many failed by which check, and how many passed of a query."""
    faults = rows.frame(["fault"])["fault"].replace("", "good").value_counts().sort("fault")
    groups = dict(good.frame(["group"])["group"].value_counts().rows())
    queries = rows.frame(["group"])["group"].unique()
    per_query = mean([groups.get(query, 0) for query in queries]) if len(queries) else 0.0
    return (*((fault, f"{count:,}") for fault, count in faults.rows()), ("good of a query", f"{per_query:.1f}"))
