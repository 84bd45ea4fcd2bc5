"""A plain file in a store, and the stages that `dedup`, `decontaminate` and `neighbours` make of it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from synthmill.flows.making.plan import Source, chain, file_source
from synthmill.flows.making.step_maker import step_maker
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store, read_dropped, read_part
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS
from synthmill.storage.plain_files.text_rows import TextSettings, text_column, texts_kind
from synthmill.storage.runs import new_run
from synthmill.tasks.running.job import Planned
from synthmill.tasks.vectors.stage import Vectors

ROWS_PER_PART = 2048


class JobOptions(NamedTuple):
    """What every comparison of a file's rows is told. as_object: what it finds is printed as one JSON object."""

    embedder: str
    as_object: bool
    store: str
    workers: int = 0
    ray_address: str | None = None


class FileJob:
    """A plain file as a source, with the store and workers that make stages of it. command: as the run's record names
    it. vectors_key: of the vectors of the file's texts, empty until `plan_vectors`.
    """

    def __init__(self, command: str, file: TextSettings, options: JobOptions) -> None:
        self.file, self.command, self.options = file, command, options
        self.store = Store(Path(options.store).expanduser().resolve())
        self.source = file_source(self.store, file, ROWS_PER_PART, texts_kind())
        self.vectors_key = ""

    def plan_vectors(self, precision: str = "float32") -> list[Planned]:
        """The stage that embeds the file's texts."""
        stage = Vectors(embedder=self.options.embedder, columns=("text",), precision=precision)
        steps = chain({}, self.source.key, stage)
        self.vectors_key = steps[-1].key
        return steps

    def benchmark_sources(self, files: Sequence[SourceSettings]) -> list[Source]:
        """Benchmarks, a row per user turn."""
        return [file_source(self.store, file, ROWS_PER_PART, KNOWN_PROMPTS) for file in files]

    def earlier_sources(self, files: Sequence[SourceSettings]) -> list[Source]:
        """Files of earlier rows, read as this file is; rows that they mark as not kept are left out."""
        settings = [
            TextSettings(path=file.path, text_column=file.prompt_column, id_column=file.id_column, only_kept=True)
            for file in files
        ]
        return [file_source(self.store, file, ROWS_PER_PART, texts_kind()) for file in settings]

    def make(self, steps: Sequence[Planned], sources: Sequence[Source], settings: Mapping[str, Any]) -> list[Manifest]:
        """Read the file and other `sources`, make every stage: the manifests of the file's rows and of the stages."""
        self.store.prepare()
        record = new_run(self.command, {"source": self.file.model_dump(mode="json"), **settings})
        with step_maker(self.store, record, self.options.workers, self.options.ray_address) as maker:
            texts, *_ = [maker.read(source) for source in (self.source, *sources)]
            return [texts, *map(maker.make, steps)]

    def names_by_id(self, texts: Manifest) -> dict[str, str]:
        """What the file calls its rows, by their ids in the store."""
        parts = (pl.DataFrame(read_part(self.store, seal, ("id", "name"))) for seal in texts.parts)
        return {row_id: name for part in parts for row_id, name in part.iter_rows()}

    def print_unused(self, texts: Manifest, unreadable: int) -> None:
        """Say which rows could not be judged, and how many share an id."""
        for reason, count in texts.dropped.items():
            first = next(row for seal in texts.parts for row in read_dropped(self.store, seal) if row.reason == reason)
            print(f"{count:,} rows not looked at: {reason}, the first {first.id}", file=sys.stderr)
        if unreadable:
            print(f"{unreadable:,} lines are no rows; they are not in the output", file=sys.stderr)
        names = [pl.DataFrame(read_part(self.store, seal, ("name",))) for seal in texts.parts if seal.rows]
        ids = pl.concat(names)["name"] if names else pl.Series([], dtype=pl.String)
        if repeated := len(ids) - ids.n_unique():
            print(f"{repeated:,} rows have the id of an earlier row (duplicate_id); all are compared", file=sys.stderr)


def files_with_texts(paths: Sequence[str], column: str) -> list[SourceSettings]:
    """Files to compare with. column: of their texts; empty: the first usual one that a file has."""
    return [SourceSettings(path=path, prompt_column=text_column(path, column)) for path in paths]
