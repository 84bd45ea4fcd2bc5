"""`synthmill dedup`, `decontaminate`, `neighbours`: a plain file's rows compared with each other, or with others."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from flows.making.cleaning import benchmark_names
from flows.making.plan import Source, chain, file_source
from flows.making.session import session
from flows.terminal.progress import Reporter
from flows.terminal.tables import shortened, table
from schemas.artifacts import Manifest
from schemas.dedup_settings import DecontaminateSettings, DedupSettings
from schemas.errors import InputError
from schemas.settings import SourceSettings
from storage.artifacts import Store, read_artifact, read_dropped, read_part
from storage.plain_files.outputs import check_out
from storage.plain_files.rows import KNOWN_PROMPTS
from storage.plain_files.text_rows import TextSettings, check_columns_exist, text_column, texts_kind, write_marked
from storage.published.rows import recall_of
from storage.runs import StageRun, new_run
from tasks.dedup.contamination import CleanRows
from tasks.dedup.duplicates import EARLIER, UniqueRows
from tasks.dedup.word_grams import GRAM, Grams, grams_of, jaccard
from tasks.running.job import Planned
from tasks.running.stages import run_stage
from tasks.vectors.stage import Vectors, vectors_in

ROWS_PER_PART = 2048
VERDICT = {"kept": pa.bool_(), "duplicate_of": pa.string(), "similarity": pa.float64(), "layer": pa.string()}
MATCH = {"contaminated": pa.bool_(), "benchmark": pa.string(), "matched_id": pa.string(), "evidence": pa.string()}
UNJUDGED = {"kept": True, "duplicate_of": None, "similarity": None, "layer": None}
NOT_LOOKED_AT = dict.fromkeys(MATCH)  # neither clean nor contaminated


class Workshop:
    """A store, workers, and what is made of a file in it."""

    def __init__(self, command: str, file: TextSettings, store: str, workers: int, ray_address: str | None) -> None:
        self.file, self.command = file, command
        self.store = Store(Path(store).expanduser().resolve())
        self.workers, self.ray_address = workers, ray_address
        self.source = file_source(self.store, file, ROWS_PER_PART, texts_kind())
        self.vectors = ""

    def embedded(self, embedder: str, precision: str = "float32") -> list[Planned]:
        stage = Vectors(embedder=embedder, columns=("text",), precision=precision)
        made = chain({}, self.source.key, stage)
        self.vectors = made[-1].key
        return made

    def known(self, files: Sequence[SourceSettings]) -> list[Source]:
        """Benchmarks, their user turns one by one."""
        return [file_source(self.store, one, ROWS_PER_PART, KNOWN_PROMPTS) for one in files]

    def earlier(self, files: Sequence[SourceSettings]) -> list[Source]:
        """Files of earlier rows, read as this file is."""
        given = [{"path": one.path, "text_column": one.prompt_column, "id_column": one.id_column} for one in files]
        found = [TextSettings(**one, only_kept=True) for one in given]
        return [file_source(self.store, one, ROWS_PER_PART, texts_kind()) for one in found]

    def make(self, steps: Sequence[Planned], others: Sequence[Source], settings: Mapping[str, Any]) -> list[Manifest]:
        """Read the sources, make every stage: the manifests of the file's rows and of the stages."""
        self.store.prepare()
        record = new_run(self.command, {"source": self.file.model_dump(mode="json"), **settings})
        by_key: dict[str, Manifest] = {}
        with session(self.store, record, self.workers, self.ray_address) as (pool, stages):
            for source in (self.source, *others):
                by_key[source.key] = source.ingest(record.id)
            for step in steps:
                origin = by_key[step.source_key]
                manifest = step.sealed(self.store, origin)
                if manifest is None:
                    with Reporter(step.stage.name, origin.rows) as told:
                        manifest = run_stage(self.store, step, origin, pool, record.id, told)
                by_key[step.key] = manifest
                stages.append(StageRun.of(manifest, {}, 0.0))
        return [by_key[self.source.key], *(by_key[step.key] for step in steps)]

    def names(self, texts: Manifest) -> dict[str, str]:
        """What rows are called, by id."""
        ids = (pl.DataFrame(read_part(self.store, seal, ("id", "name"))) for seal in texts.parts)
        return {row_id: name for some in ids for row_id, name in some.iter_rows()}

    def tell_unused(self, texts: Manifest, unreadable: int) -> None:
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


def known_files(paths: Sequence[str], column: str) -> list[SourceSettings]:
    """Files to compare with; each one's column of prompts is the one named, or the first usual one it has."""
    return [SourceSettings(path=path, prompt_column=text_column(path, column)) for path in paths]


def dedup_file(
    file: TextSettings,
    out: Path,
    settings: DedupSettings,
    embedder: str,
    as_object: bool,
    store: str,
    workers: int,
    ray_address: str | None,
) -> None:
    """Mark duplicates; `out` has every row of the file, in its order, with four columns more."""
    against = [one for one in settings.against if isinstance(one, SourceSettings)]
    check_out(out, file.path, *(one.path for one in against))
    check_columns_exist(file.path, [file.text_column, file.score_column, *file.within])
    shop = Workshop("dedup", file, store, workers, ray_address)
    others = shop.earlier(against)
    steps = shop.embedded(embedder, settings.precision) if "meaning" in settings.layers else []
    rules = settings.model_dump(include={"layers", "threshold", "jaccard", "recall", "sample"})
    stage = UniqueRows(
        columns=("text",),
        within=("within",) if file.within else (),
        score="score",
        provenance="known",
        vectors=shop.vectors,
        against=tuple((one.stage, one.key) for one in others),
        embedder=embedder,
        **rules,
    )
    steps += chain({}, shop.source.key, stage)
    made = shop.make(steps, others, settings.model_dump(mode="json"))
    texts, verdicts = made[0], made[-1]
    names = shop.names(texts)
    for one, source in zip(against, others, strict=True):
        file_name = one.path.rsplit("/", 1)[-1]
        found_there = shop.names(source.ingest("")).items()
        names |= {EARLIER + row_id: f"{file_name}:{name}" for row_id, name in found_there}

    def found() -> Iterator[dict[str, Any]]:
        for seal in verdicts.parts:
            for batch in read_part(shop.store, seal, ("place", *VERDICT)).to_batches(ROWS_PER_PART):
                for row in batch.to_pylist():
                    yield {**row, "duplicate_of": names.get(row["duplicate_of"])}

    written, unreadable = write_marked(file.path, out, VERDICT, found(), UNJUDGED, file.limit)
    shop.tell_unused(texts, unreadable)
    notes = verdicts.notes
    if as_object:
        print(orjson.dumps({**notes, "rows": written}, option=orjson.OPT_INDENT_2).decode())
        return
    for name, count in (*notes["by_layer"].items(), ("kept", notes["kept"])):
        print(f"{name:<10}{count:>12,}")
    if "recall" in notes:
        print(recall_of(notes))
    print(f"{written:,} rows -> {out}", file=sys.stderr)


def decontaminate_file(
    file: TextSettings,
    out: Path,
    settings: DecontaminateSettings,
    embedder: str,
    as_object: bool,
    store: str,
    workers: int,
    ray_address: str | None,
) -> None:
    """Mark benchmark prompts; `out` has every row of the file, in its order, with four columns more; or, found=drop,
    only the clean ones.
    """
    check_out(out, file.path, *(one.path for one in settings.benchmarks))
    check_columns_exist(file.path, [file.text_column])
    shop = Workshop("decontaminate", file, store, workers, ray_address)
    others = shop.known(settings.benchmarks)
    names = benchmark_names(settings.benchmarks)
    stage = CleanRows(
        columns=("turns",),
        benchmarks=tuple(zip(names, (one.key for one in others), strict=True)),
        found="mark",
        layers=settings.layers,
        threshold=settings.threshold,
        embedder=embedder,
    )
    texts, marked = shop.make(chain({}, shop.source.key, stage), others, settings.model_dump(mode="json"))
    counted: Counter[tuple[str, str]] = Counter()

    def found() -> Iterator[dict[str, Any]]:
        for seal in marked.parts:
            for row in read_part(shop.store, seal, ("place", *MATCH)).to_pylist():
                if row["contaminated"]:
                    counted[row["benchmark"], "meaning" if row["evidence"].startswith("cosine") else "words"] += 1
                yield row

    only = "contaminated" if settings.found == "drop" else ""
    written, unreadable = write_marked(file.path, out, MATCH, found(), NOT_LOOKED_AT, file.limit, only)
    shop.tell_unused(texts, unreadable)
    by_benchmark = {name: {layer: counted[name, layer] for layer in settings.layers} for name in names}
    if as_object:
        told = {"rows": marked.rows, "contaminated": counted.total(), "benchmarks": by_benchmark}
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return
    for name, layers in by_benchmark.items():
        print(f"{name}  " + ", ".join(f"{count:,} by {layer}" for layer, count in layers.items()))
    print(f"{counted.total():,} of {marked.rows:,} rows contaminated; {written:,} rows -> {out}", file=sys.stderr)


def show_neighbours(file: TextSettings, row: str, count: int, embedder: str, as_object: bool, store: str) -> None:
    """The rows nearest to one, with their cosine, their share of word 3-grams, and their text. Raises InputError."""
    check_columns_exist(file.path, [file.text_column])
    shop = Workshop("neighbours", file, store, 0, None)
    texts, _ = shop.make(shop.embedded(embedder), (), {})
    frame = pl.DataFrame(read_artifact(shop.store, texts, ("id", "name", "place", "text")))
    asked = frame.with_row_index("at").filter(
        (pl.col("name") == row) | (pl.col("place") == row) | (pl.col("id") == row)
    )
    if not asked.height:
        first = ", ".join(frame["name"].head(3))
        raise InputError(f"{file.path} has no row {row!r}; its first are {first} (a line is called line-N)")
    at = int(asked["at"][0])
    vectors = vectors_in(shop.store, shop.vectors)
    mine = np.asarray(vectors[at], np.float32)
    cosines = np.concatenate(
        [np.asarray(vectors[n : n + 65536], np.float32) @ mine for n in range(0, len(vectors), 65536)]
    )
    cosines[at] = -np.inf
    nearest = np.lexsort((frame["id"].to_numpy(), -np.round(cosines, 6)))[: min(count, frame.height - 1)]
    chosen = frame[[at, *nearest.tolist()]]
    grams = grams_of(chosen["text"].to_list(), GRAM)
    shares = [shared(grams, 0, n) for n in range(1, chosen.height)]
    found = [
        {"id": name, "cosine": round(float(cosines[n]), 4), "jaccard": round(share, 4), "text": text}
        for n, share, name, text in zip(nearest, shares, chosen["name"][1:], chosen["text"][1:], strict=True)
    ]
    if as_object:
        print(
            orjson.dumps(
                {"id": row, "text": chosen["text"][0], "neighbours": found}, option=orjson.OPT_INDENT_2
            ).decode()
        )
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(emoji=False)
    console.print(Text(f"{row}: {shortened(chosen['text'][0], 300)}", style="bold"))
    if not mine.any():
        console.print(f"{embedder} cannot read this text: its cosines say nothing", highlight=False)
    shown = table("cosine", "jaccard", "id", "text", numbers=("cosine", "jaccard"))
    for one in found:
        shown.add_row(
            f"{one['cosine']:.3f}", f"{one['jaccard']:.3f}", Text(one["id"]), Text(shortened(one["text"], 200))
        )
    console.print(shown)


def shared(grams: Grams, one: int, other: int) -> float:
    """The Jaccard similarity of two texts' runs of words; 0 where one has none."""
    sets = [grams.hashes[grams.starts[n] : grams.starts[n + 1]] for n in (one, other)]
    return float(jaccard(*sets)) if all(map(len, sets)) else 0.0
