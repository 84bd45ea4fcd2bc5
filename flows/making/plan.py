"""The plan of a run: its stages with their keys, known before a token is spent."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthmill.flows.pages.own_files import OwnFiles
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.rows import Dropped, Row
from synthmill.schemas.settings import EngineSettings, FileSettings, RunSettings, TableSettings
from synthmill.storage.artifacts import Store, sealed_artifact
from synthmill.storage.plain_files.pools import PoolFile, read_pools
from synthmill.storage.plain_files.rows import INSTRUCTIONS, RowKind, read_chunks
from synthmill.storage.plain_files.tables import look_at_table
from synthmill.storage.published.configurations import Dataset
from synthmill.storage.published.folder import has_figures, is_finished, is_known_whole
from synthmill.storage.published.provenance import stated_licenses
from synthmill.tasks.engines.token_estimates import USUAL_CHARS_PER_TOKEN
from synthmill.tasks.frames import RunContext
from synthmill.tasks.generators.pool_source import POOLS, ingest_pools, pools_key
from synthmill.tasks.running.job import NO_CONTEXT, Planned, Stage, step_ids
from synthmill.tasks.running.stages import ingest, ingest_rows, rows_key, source_key
from synthmill.tasks.running.table_source import ROWS, ingest_memory, ingest_table, memory_key, table_key

Roles = Mapping[str, EngineSettings]


@dataclass(frozen=True)
class Source:
    """Where a flow's rows come from: the stage they make, its key, how it is made, and what a look at it finds.

    look: (rows, in words), without making anything. Raises InputError when nothing can be used.
    """

    stage: str
    key: str
    ingest: Callable[[str], Manifest]
    look: Callable[[], tuple[int, str]]
    step: str = ""
    """Its id within a plan that names its sources."""
    written: Mapping[str, Any] | None = None
    """How a pipeline's file has it; None where it cannot."""


@dataclass(frozen=True)
class Plan:
    """What a run will do. settings: with every engine's model resolved. publish: manifests by step -> a dataset.
    trunk: the step without whose rows there is no dataset. others: what is read beside the source. written: settings
    that decide what is written, and no stage's rows.

    Sources and stages are the plan's steps, and get their ids from it.
    """

    flow: str
    settings: RunSettings
    store: Store
    source: Source
    stages: Sequence[Planned]
    publish: Callable[[Mapping[str, Manifest]], Dataset]
    trunk: str
    others: Sequence[Source] = ()
    written: Sequence[str] = ()
    method: str = ""
    """The method that planned it, where the flow has a name of its own."""
    own_files: OwnFiles | None = None
    """The files of a method from outside the tree."""

    def __post_init__(self) -> None:
        """Raises InputError where the trunk is no step."""
        steps = [planned.step if planned.has_own_id else planned.stage for planned in self.stages]
        ids = step_ids([*(source.step or source.stage for source in self.sources), *steps])
        for planned, step in zip(self.stages, ids[len(self.sources) :], strict=True):
            planned.step = step
        if self.trunk not in ids:
            raise InputError(f"{self.flow} has no step {self.trunk}, its trunk; its steps are {', '.join(ids)}")

    @property
    def source_steps(self) -> dict[str, str]:
        """The sources' ids by artifact key."""
        ids = step_ids([source.step or source.stage for source in self.sources])
        return {source.key: step for source, step in zip(self.sources, ids, strict=True)}

    @property
    def sources(self) -> list[Source]:
        return [self.source, *self.others]

    @property
    def dataset(self) -> Path:
        written = [*self.written, *stated_licenses(self.settings)]
        name = content_hash([*(step.key for step in self.stages), *written])[:8]
        return self.store.root / "datasets" / f"{self.flow}-{name}"

    def on_trunk(self) -> set[str]:
        """The keys of the trunk and of the stages that lead to it: if one of them has no rows, the run failed."""
        source_of = {step.key: step.source_key for step in self.stages}
        key: str | None = next(step.key for step in self.stages if step.step == self.trunk)
        trunk = set()
        while key is not None:
            trunk.add(key)
            key = source_of.get(key)
        return trunk

    def made(self) -> dict[str, Manifest] | None:
        """Every artifact by step, if all are there, whole, and made from their sources as they are now."""
        by_key: dict[str, Manifest] = {}
        for source in self.sources:
            if (manifest := sealed_artifact(self.store, source.stage, source.key, {})) is None:
                return None
            by_key[source.key] = manifest
        for planned in self.stages:
            if (manifest := planned.sealed(self.store, by_key[planned.source_key])) is None:
                return None
            by_key[planned.key] = manifest
        return self.by_step(by_key)

    def by_step(self, by_key: Mapping[str, Manifest]) -> dict[str, Manifest]:
        """Manifests by their step's id, in the plan's order; by_key: those that are made so far."""
        steps = self.source_steps | {planned.key: planned.step for planned in self.stages}
        return {step: by_key[key] for key, step in steps.items() if key in by_key}

    def is_done(self) -> bool:
        """Whether nothing is left to make: every artifact and the dataset are there, and whole."""
        memory = self.store.root / "whole" / "datasets" / f"{self.dataset.name}.json"
        if not is_finished(self.dataset) or not has_figures(self.dataset):
            return False
        return is_known_whole(self.dataset, memory) and self.made() is not None


def chain(roles: Roles, key: str, *stages: Stage, context: RunContext = NO_CONTEXT) -> list[Planned]:
    """Stages made from each other, the first one from the artifact `key`."""
    planned: list[Planned] = []
    for stage in stages:
        planned.append(Planned(stage, roles, planned[-1].key if planned else key, context=context))
    return planned


def open_store(settings: RunSettings) -> Store:
    store = Store(Path(settings.store).expanduser().resolve(), settings.retry_lost)
    store.prepare()
    return store


def file_source(
    store: Store, source: FileSettings, rows_per_part: int, kind: RowKind = INSTRUCTIONS, step: str = ""
) -> Source:
    """A flow's rows from a file or a Hub dataset."""
    return Source(
        kind.stage,
        source_key(source, rows_per_part, kind),
        lambda run: ingest(store, source, rows_per_part, run, kind),
        lambda: look_at_rows(source, rows_per_part, kind),
        step,
        {
            "path": source.path,
            "read_as": kind.stage,
            "rows_per_part": rows_per_part,
            **source.model_dump(mode="json", exclude_defaults=True),
        },
    )


def pool_source(store: Store, file: Callable[[], PoolFile], rows_per_part: int, limit: int | None = None) -> Source:
    """A file's pools: prompts with their answers, and perhaps scores. file: opens it, anew for each reading."""
    return Source(
        POOLS,
        pools_key(file(), rows_per_part, limit),
        lambda run: ingest_pools(store, file(), rows_per_part, run, limit),
        lambda: look_at_pools(file(), limit, store.root),
    )


def look_at_pools(file: PoolFile, limit: int | None, beside: Path) -> tuple[int, str]:
    """How many pools and answers a file has. Raises InputError for none."""

    def counted(tables: Any) -> tuple[int, int]:
        pools = answers = 0
        for table in tables:
            pools += table.num_rows
            answers += sum(map(len, table["answers"].to_pylist()))
        return pools, answers

    pools, answers = read_pools(file, counted, beside)
    if not pools:
        raise InputError(f"{file.path}: none of its pools can be used ({dict(file.faults)})")
    why = f", {file.faults.total():,} rows cannot be read" if file.faults else ""
    return min(pools, limit or pools), f"{file.path}: {pools:,} pools, {answers:,} answers{why}"


def table_source(store: Store, source: TableSettings, rows_per_part: int, step: str = "") -> tuple[Source, pa.Schema]:
    """A file's rows with all of their columns, and these. Raises InputError where the file cannot be read."""
    schema, rows = look_at_table(source)
    look = f"{source.path}: {rows:,} rows of {', '.join(schema.names[1:])}"
    ingest = partial(ingest_table, store, source, rows_per_part)
    return Source(ROWS, table_key(source, rows_per_part), ingest, lambda: (rows, look), step), schema


def memory_source(
    store: Store, table: pa.Table, rows_per_part: int, step: str = "", dropped: Sequence[Dropped] = (), look: str = ""
) -> Source:
    """The rows of a table in memory, which has an `id`. dropped: rows that are not in it."""

    def ingest(run: str) -> Manifest:
        return ingest_memory(store, table, rows_per_part, run, dropped)

    look = look or f"{table.num_rows:,} rows in memory"
    return Source(ROWS, memory_key(table, rows_per_part, dropped), ingest, lambda: (table.num_rows, look), step)


def rows_source(store: Store, stage: str, rows: Sequence[Row], look: str, **facts: Any) -> Source:
    """A flow's rows from its settings. look: what a dry run says of them; facts: what their manifest says."""
    key = rows_key(stage, rows)
    return Source(stage, key, lambda run: ingest_rows(store, stage, rows, run, facts), lambda: (len(rows), look))


def look_at_rows(source: FileSettings, rows_per_part: int, kind: RowKind) -> tuple[int, str]:
    """Read a source without keeping it. Raises InputError when none of its rows can be used."""
    rows = longest = 0
    counted: Counter[str] = Counter()
    for chunk in read_chunks(source, rows_per_part, kind):
        rows += len(chunk.rows)
        longest = max([longest, *map(kind.length, chunk.rows)])
        counted.update(row.reason for row in chunk.dropped)
    dropped = counted.total()
    why = f" ({', '.join(f'{count} {reason}' for reason, count in counted.items())})" if counted else ""
    if rows == 0:
        raise InputError(f"{source.path}: none of its {dropped} rows can be used{why}")
    return rows, (
        f"{source.path}: {rows:,} {kind.stage.replace('_', ' ')}, {dropped:,} rows cannot be read{why}, the longest "
        f"{longest:,} characters (about {longest // USUAL_CHARS_PER_TOKEN:,} tokens)"
    )
