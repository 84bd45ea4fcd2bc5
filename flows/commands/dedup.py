"""`synthmill dedup`: the duplicates of a plain file, marked."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from synthmill.flows.commands.file_job import ROWS_PER_PART, FileJob, JobOptions
from synthmill.flows.making.plan import Source, chain
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.dedup_settings import DedupSettings
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store, read_part
from synthmill.storage.plain_files.outputs import check_out
from synthmill.storage.plain_files.text_rows import TextSettings, check_columns_exist, write_marked
from synthmill.storage.published.rows import recall_of, repetition_of
from synthmill.tasks.dedup.duplicates import EARLIER, UniqueRows

VERDICT = {"kept": pa.bool_(), "duplicate_of": pa.string(), "similarity": pa.float64(), "layer": pa.string()}
UNJUDGED = {"kept": True, "duplicate_of": None, "similarity": None, "layer": None}


def dedup_file(file: TextSettings, out: Path, settings: DedupSettings, options: JobOptions) -> None:
    """Mark duplicates; `out` has every row of the file, in its order, with four columns more."""
    earlier_files = [source for source in settings.against if isinstance(source, SourceSettings)]
    check_out(out, file.path, *(earlier.path for earlier in earlier_files))
    check_columns_exist(file.path, [file.text_column, file.score_column, *file.within])
    job = FileJob("dedup", file, options)
    earlier_sources = job.earlier_sources(earlier_files)
    steps = job.plan_vectors(settings.precision) if "meaning" in settings.layers else []
    steps += chain({}, job.source.key, dedup_stage(job, settings, earlier_sources))
    manifests = job.make(steps, earlier_sources, settings.model_dump(mode="json"))
    texts, verdicts = manifests[0], manifests[-1]
    names = job.names_by_id(texts)
    for earlier, source in zip(earlier_files, earlier_sources, strict=True):
        file_name = earlier.path.rsplit("/", 1)[-1]
        earlier_names = job.names_by_id(source.ingest("")).items()
        names |= {EARLIER + row_id: f"{file_name}:{name}" for row_id, name in earlier_names}
    marks = read_verdicts(job.store, verdicts, names)
    rows, unreadable = write_marked(file.path, out, VERDICT, marks, UNJUDGED, file.limit)
    job.print_unused(texts, unreadable)
    print_counts(verdicts.notes, rows, out, options.as_object)


def dedup_stage(job: FileJob, settings: DedupSettings, earlier: Sequence[Source]) -> UniqueRows:
    """The stage that compares the file's rows with each other and with earlier ones."""
    return UniqueRows(
        columns=("text",),
        within=("within",) if job.file.within else (),
        score="score",
        provenance="known",
        vectors=job.vectors_key,
        against=tuple((source.stage, source.key) for source in earlier),
        embedder=job.options.embedder,
        **settings.model_dump(include={"layers", "threshold", "jaccard", "recall", "sample"}),
    )


def read_verdicts(store: Store, verdicts: Manifest, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Every verdict, `duplicate_of` by the name that a file gives the row. names: by id."""
    for seal in verdicts.parts:
        for batch in read_part(store, seal, ("place", *VERDICT)).to_batches(ROWS_PER_PART):
            for row in batch.to_pylist():
                yield {**row, "duplicate_of": names.get(row["duplicate_of"])}


def print_counts(notes: Mapping[str, Any], rows: int, out: Path, as_object: bool) -> None:
    """Duplicates by layer and the recall, or the stage's notes as one JSON object."""
    if as_object:
        print(orjson.dumps({**notes, "rows": rows}, option=orjson.OPT_INDENT_2).decode())
        return
    for name, count in (*notes["by_layer"].items(), ("kept", notes["kept"])):
        print(f"{name:<10}{count:>12,}")
    print(repetition_of(notes))
    if "recall" in notes:
        print(recall_of(notes))
    print(f"{rows:,} rows -> {out}", file=sys.stderr)
