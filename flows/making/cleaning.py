"""What every flow that publishes plans for duplicates and contamination (docs/papers.md#dedup)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from flows.making.plan import Source, chain, file_source, open_store
from schemas.dedup_settings import LAYERS, PUBLISHED, Layer, PublishSettings
from schemas.settings import SourceSettings
from storage.artifacts import Store, read_manifest
from storage.plain_files.rows import KNOWN_PROMPTS, read_prompts
from storage.runs import runs
from tasks.dedup.contamination import Contamination
from tasks.dedup.duplicates import Duplicates
from tasks.frames import RunContext
from tasks.running.job import Planned
from tasks.vectors.stage import Vectors

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


def clean(
    flow: str,
    settings: PublishSettings,
    store: Store,
    key: str,
    check: type[Contamination],
    unique: type[Duplicates] | None,
    *,
    columns: Sequence[str] = ("prompt",),
    within: Sequence[str] = (),
    score: str = "",
    layers: Sequence[Layer] = LAYERS,
    texts: Sequence[str] = (),
    **extra: object,
) -> Cleaning:
    """What follows the artifact `key`: first contamination, where benchmarks are named, in every text of a row
    (`texts`, or what `check` says they are); then duplicates, by `columns`. Raises InputError.
    """
    cleaning, context = Cleaning(key), RunContext(settings.embedder)
    contamination, dedup = settings.decontaminate, settings.dedup
    if contamination.benchmarks:
        keys = [cleaning.read(store, file).key for file in contamination.benchmarks]
        benchmarks = tuple(zip(benchmark_names(contamination.benchmarks), keys, strict=True))
        rules = contamination.model_dump(include={"found", "layers", "threshold"}) | (
            {"columns": tuple(texts)} if texts else {}
        )
        cleaning.then(chain({}, key, check(benchmarks=benchmarks, **rules), context=context))
    if unique is None:
        return cleaning
    used = tuple(layer for layer in dedup.layers if layer in layers)
    vectors = ""
    if "meaning" in used:
        stage = Vectors(columns=tuple(columns), precision=dedup.precision)
        embedded = chain({}, cleaning.key, stage, context=context)
        cleaning.stages += embedded
        vectors = embedded[-1].key
    against = [
        (KNOWN_PROMPTS.stage, cleaning.read(store, file).key)
        for file in dedup.against
        if isinstance(file, SourceSettings)
    ]
    if PUBLISHED in dedup.against:
        against += published(store, flow, unique.name, cleaning.key)
    rules = dedup.model_dump(include={"threshold", "jaccard", "recall", "sample"})
    cleaning.then(
        chain(
            {},
            cleaning.key,
            unique(
                columns=tuple(columns),
                within=tuple(within),
                score=score,
                layers=used,
                vectors=vectors,
                against=tuple(against),
                embedder=settings.embedder,
                **rules,
                **extra,
            ),
        )
    )
    return cleaning


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
