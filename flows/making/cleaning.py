"""What every flow that publishes plans for duplicates and contamination (docs/papers.md#dedup)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synthmill.flows.making.plan import Source, chain, file_source, open_store
from synthmill.schemas.dedup_settings import LAYERS, PUBLISHED, Layer, PublishSettings
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store, read_manifest
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS, read_prompts
from synthmill.storage.runs import runs
from synthmill.tasks.dedup.contamination import Contamination
from synthmill.tasks.dedup.duplicates import Duplicates
from synthmill.tasks.frames import RunContext
from synthmill.tasks.running.job import Planned
from synthmill.tasks.vectors.stage import Vectors

KNOWN_PER_PART = 4096


@dataclass
class Cleaning:
    """Stages that mark or drop what is contaminated or there twice, and what is read for them; key: of the last."""

    key: str
    stages: list[Planned] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def then(self, stages: Sequence[Planned]) -> None:
        self.stages += stages
        self.key = stages[-1].key

    def read(self, store: Store, file: SourceSettings) -> Source:
        source = file_source(store, file, KNOWN_PER_PART, KNOWN_PROMPTS)
        self.sources.append(source)
        return source


def open_checked_store(settings: PublishSettings) -> Store:
    """The run's store, once every file that rows are to be compared with could be read: raises InputError before."""
    for file in (*settings.dedup.against, *settings.decontaminate.benchmarks):
        if isinstance(file, SourceSettings):
            read_prompts(file)
    return open_store(settings)


@dataclass(frozen=True)
class Comparison:
    """Which stages compare a plan's rows, and what of a row they look at.

    columns: texts by which rows count as duplicates; within: columns in which duplicates are equal; score: the column
    whose larger value stays; layers: those that suit these rows; texts: what is compared with benchmarks, if not what
    `check` says; fields: further settings of `unique`.
    """

    check: type[Contamination]
    unique: type[Duplicates] | None
    columns: tuple[str, ...] = ("prompt",)
    within: tuple[str, ...] = ()
    score: str = ""
    layers: tuple[Layer, ...] = LAYERS
    texts: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def clean(flow: str, settings: PublishSettings, store: Store, key: str, comparison: Comparison) -> Cleaning:
    """What follows the artifact `key`: first contamination, where benchmarks are named, in every text of a row; then
    duplicates. Raises InputError.
    """
    cleaning = Cleaning(key)
    if settings.decontaminate.benchmarks:
        check_benchmarks(cleaning, settings, store, comparison)
    if comparison.unique:
        drop_duplicates(cleaning, flow, settings, store, comparison, comparison.unique)
    return cleaning


def check_benchmarks(cleaning: Cleaning, settings: PublishSettings, store: Store, comparison: Comparison) -> None:
    """Add the stage that marks or drops what is in a benchmark."""
    contamination = settings.decontaminate
    keys = [cleaning.read(store, file).key for file in contamination.benchmarks]
    benchmarks = tuple(zip(benchmark_names(contamination.benchmarks), keys, strict=True))
    rules = contamination.model_dump(include={"found", "layers", "threshold"})
    texts = {"columns": comparison.texts} if comparison.texts else {}
    stage = comparison.check(benchmarks=benchmarks, **rules, **texts)
    cleaning.then(chain({}, cleaning.key, stage, context=RunContext(settings.embedder)))


def drop_duplicates(
    cleaning: Cleaning,
    flow: str,
    settings: PublishSettings,
    store: Store,
    comparison: Comparison,
    unique: type[Duplicates],
) -> None:
    """Add the stages that embed the rows, where meaning is looked at, and that mark or drop duplicates."""
    dedup = settings.dedup
    layers = tuple(layer for layer in dedup.layers if layer in comparison.layers)
    vectors = ""
    if "meaning" in layers:
        stage = Vectors(columns=comparison.columns, precision=dedup.precision)
        embedded = chain({}, cleaning.key, stage, context=RunContext(settings.embedder))
        cleaning.stages += embedded
        vectors = embedded[-1].key
    files = [file for file in dedup.against if isinstance(file, SourceSettings)]
    against = [(KNOWN_PROMPTS.stage, cleaning.read(store, file).key) for file in files]
    if PUBLISHED in dedup.against:
        against += published(store, flow, unique.name, cleaning.key)
    marking = unique(
        columns=comparison.columns,
        within=comparison.within,
        score=comparison.score,
        layers=layers,
        vectors=vectors,
        against=tuple(against),
        embedder=settings.embedder,
        **dedup.model_dump(include={"threshold", "jaccard", "recall", "sample"}),
        **comparison.fields,
    )
    cleaning.then(chain({}, cleaning.key, marking))


def benchmark_names(files: Sequence[SourceSettings]) -> list[str]:
    """What benchmarks are called: their files' names, or the paths where two have the same."""
    short = [file.path.rsplit("/", 1)[-1] for file in files]
    return [file.path if short.count(name) > 1 else name for file, name in zip(files, short, strict=True)]


def published(store: Store, flow: str, stage: str, source: str) -> Iterator[tuple[str, str]]:
    """The verdicts behind what this flow published in this store: those of its finished runs, up to the first that had
    the same rows, so that the same command finds itself done.
    """
    seen_keys = set()
    for run in runs(store):
        if run.flow != flow or run.status != "finished" or not run.dataset:
            continue
        for stage_run in run.stages:
            path = store.manifest_path(stage, stage_run.key)
            if stage_run.stage != stage or stage_run.key in seen_keys or not path.exists():
                continue
            if source in read_manifest(path).sources:
                return
            seen_keys.add(stage_run.key)
            yield stage, stage_run.key
