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
    for one in (*settings.dedup.against, *settings.decontaminate.benchmarks):
        if isinstance(one, SourceSettings):
            read_prompts(one)
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
    **more: object,
) -> Cleaning:
    """What follows the artifact `key`: first contamination, where benchmarks are named, in every text of a row
    (`texts`, or what `check` says they are); then duplicates, by `columns`. Raises InputError.
    """
    made, context = Cleaning(key), RunContext(settings.embedder)
    found, dedup = settings.decontaminate, settings.dedup
    if found.benchmarks:
        keys = [made.read(store, one).key for one in found.benchmarks]
        named = tuple(zip(benchmark_names(found.benchmarks), keys, strict=True))
        rules = found.model_dump(include={"found", "layers", "threshold"}) | (
            {"columns": tuple(texts)} if texts else {}
        )
        made.then(chain({}, key, check(benchmarks=named, **rules), context=context))
    if unique is None:
        return made
    used = tuple(layer for layer in dedup.layers if layer in layers)
    vectors = ""
    if "meaning" in used:
        stage = Vectors(columns=tuple(columns), precision=dedup.precision)
        embedded = chain({}, made.key, stage, context=context)
        made.stages += embedded
        vectors = embedded[-1].key
    against = [
        (KNOWN_PROMPTS.stage, made.read(store, one).key) for one in dedup.against if isinstance(one, SourceSettings)
    ]
    if PUBLISHED in dedup.against:
        against += published(store, flow, unique.name, made.key)
    rules = dedup.model_dump(include={"threshold", "jaccard", "recall", "sample"})
    made.then(
        chain(
            {},
            made.key,
            unique(
                columns=tuple(columns),
                within=tuple(within),
                score=score,
                layers=used,
                vectors=vectors,
                against=tuple(against),
                embedder=settings.embedder,
                **rules,
                **more,
            ),
        )
    )
    return made


def benchmark_names(files: Sequence[SourceSettings]) -> list[str]:
    """What benchmarks are called: their files' names, or the paths where two have the same."""
    short = [one.path.rsplit("/", 1)[-1] for one in files]
    return [one.path if short.count(name) > 1 else name for one, name in zip(files, short, strict=True)]


def published(store: Store, flow: str, stage: str, source: str) -> Iterator[tuple[str, str]]:
    """The verdicts behind what this flow published in this store: those of its finished runs, up to the first that had
    the same rows, so that the same command finds itself done.
    """
    seen = set()
    for run in runs(store):
        if run.flow != flow or run.status != "finished" or not run.dataset:
            continue
        for one in run.stages:
            path = store.manifest_path(stage, one.key)
            if one.stage != stage or one.key in seen or not path.exists():
                continue
            if source in read_manifest(path).sources:
                return
            seen.add(one.key)
            yield stage, one.key
