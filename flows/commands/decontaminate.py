"""`synthmill decontaminate`: the rows of a plain file that hold a benchmark's prompts, marked or left out."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from synthmill.flows.commands.file_job import FileJob, JobOptions
from synthmill.flows.making.cleaning import benchmark_names
from synthmill.flows.making.plan import chain
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.dedup_settings import DecontaminateSettings
from synthmill.storage.artifacts import Store, read_part
from synthmill.storage.plain_files.outputs import check_out
from synthmill.storage.plain_files.text_rows import TextSettings, check_columns_exist, write_marked
from synthmill.tasks.dedup.contamination import CleanRows

MATCH = {"contaminated": pa.bool_(), "benchmark": pa.string(), "matched_id": pa.string(), "evidence": pa.string()}
NOT_LOOKED_AT = dict.fromkeys(MATCH)  # neither clean nor contaminated

Hits = Counter[tuple[str, str]]  # contaminated rows by benchmark and layer


def decontaminate_file(file: TextSettings, out: Path, settings: DecontaminateSettings, options: JobOptions) -> None:
    """Mark benchmark prompts; `out` has every row of the file, in its order, with four columns more; or, found=drop,
    only the clean ones.
    """
    check_out(out, file.path, *(benchmark.path for benchmark in settings.benchmarks))
    check_columns_exist(file.path, [file.text_column])
    job = FileJob("decontaminate", file, options)
    benchmarks = job.benchmark_sources(settings.benchmarks)
    names = benchmark_names(settings.benchmarks)
    stage = CleanRows(
        columns=("turns",),
        benchmarks=tuple(zip(names, (benchmark.key for benchmark in benchmarks), strict=True)),
        found="mark",
        layers=settings.layers,
        threshold=settings.threshold,
        embedder=options.embedder,
    )
    texts, matches = job.make(chain({}, job.source.key, stage), benchmarks, settings.model_dump(mode="json"))
    hits: Hits = Counter()
    left_out = "contaminated" if settings.found == "drop" else ""
    marks = read_matches(job.store, matches, hits)
    rows, unreadable = write_marked(file.path, out, MATCH, marks, NOT_LOOKED_AT, file.limit, left_out)
    job.print_unused(texts, unreadable)
    by_benchmark = {name: {layer: hits[name, layer] for layer in settings.layers} for name in names}
    if options.as_object:
        summary = {"rows": matches.rows, "contaminated": hits.total(), "benchmarks": by_benchmark}
        print(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())
        return
    for name, layers in by_benchmark.items():
        print(f"{name}  " + ", ".join(f"{count:,} by {layer}" for layer, count in layers.items()))
    print(f"{hits.total():,} of {matches.rows:,} rows contaminated; {rows:,} rows -> {out}", file=sys.stderr)


def read_matches(store: Store, matches: Manifest, hits: Hits) -> Iterator[dict[str, Any]]:
    """Every verdict; adds the contaminated ones to `hits`."""
    for seal in matches.parts:
        for row in read_part(store, seal, ("place", *MATCH)).to_pylist():
            if row["contaminated"]:
                hits[row["benchmark"], "meaning" if row["evidence"].startswith("cosine") else "words"] += 1
            yield row
