"""`synthmill rank`: where the queries of a plain file bring their gold passages, by one retriever, and the measures."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from flows.making.plan import chain, file_source
from flows.making.session import session
from flows.methods.retpo.dataset import CHECKED, check_found, note_own, note_ties
from flows.methods.retpo.search import plan_search
from flows.terminal.progress import Reporter
from schemas.artifacts import Manifest
from schemas.errors import InputError
from schemas.settings import read_settings
from schemas.turn_settings import CorpusSettings, TurnSettings
from storage.artifacts import Store, read_artifact, read_dropped, read_part
from storage.plain_files.outputs import check_out, write_rows
from storage.plain_files.turns import is_beir, queries_kind
from storage.runs import StageRun, new_run
from tasks.retrieval.indexes import own_passages
from tasks.retrieval.metrics import ANY, MEASURES, as_json, decimals, evaluation, form_name, scored_queries, totals
from tasks.retrieval.retrievers import RetrieverSettings
from tasks.retrieval.run_ranks import RunSettings
from tasks.running.job import Planned
from tasks.running.stages import run_stage

QUERIES_PER_PART = 4096
WIDE, FEWER = 110, ("MRR", "nDCG@10", "R@10", "MAP")
WHY = {
    "no_gold": "no relevant passage in the judgements",
    "unknown_passage": "no relevant passage in the corpus",
}


def rank_file(
    queries: str,
    corpus: str,
    qrels: str,
    retriever: str,
    out: Path,
    depth: int,
    as_object: bool,
    by_group: bool,
    store: str,
    workers: int,
    ray_address: str | None,
    limit: int | None,
    ignore_identical_ids: bool | None = None,
    **given: Any,
) -> None:
    """Rank every query's gold passages; rows go to `out`, the table (or one JSON object) to standard output."""
    settings = read_settings(RetrieverSettings, None, {"spec": retriever, **given})
    run_file = settings.path if isinstance(settings, RunSettings) else ""
    check_out(out, queries, corpus, qrels, run_file)
    reading = TurnSettings(path=queries, qrels=qrels, limit=limit)
    kind = queries_kind(qrels)
    place = Store(Path(store).expanduser().resolve())
    passages = CorpusSettings(path=corpus)
    ignored = is_beir(passages, qrels) if ignore_identical_ids is None else ignore_identical_ids
    search = plan_search(place, passages, [settings], depth, ignored)
    source = file_source(place, reading, QUERIES_PER_PART, kind)
    steps = [*search.indexes, *chain({}, source.key, search.places, *search.ranks)]
    place.prepare()
    record = new_run("rank", {"queries": queries, "corpus": corpus, "retriever": settings.model_dump(mode="json")})
    by_key: dict[str, Manifest] = {}
    with session(place, record, workers, ray_address) as (pool, stages):
        for one in (search.corpus, source):
            by_key[one.key] = one.ingest(record.id)
            tell_dropped(place, by_key[one.key])
        for step in steps:
            started = time.monotonic()
            manifest = by_key[step.key] = made(place, step, by_key[step.source_key], pool, record.id)
            stages.append(StageRun.of(manifest, {}, time.monotonic() - started))
            tell_dropped(place, manifest)
    ranked = by_key[steps[-1].key]
    own = own_passages(place.root, search.corpus.key, pl.DataFrame(read_artifact(place, ranked, ("id",)))["id"])
    for note in (note_own(own, ignored), *note_ties([settings])):
        if note:
            print(note, file=sys.stderr)
    rules = {"ignore_identical_ids": ignored, **({"ties": settings.ties} if isinstance(settings, RunSettings) else {})}
    report(place, ranked, settings, depth, as_object, by_group, out, rules)


def made(store: Store, step: Planned, source: Manifest, pool: Any, run: str) -> Manifest:
    """One stage, with its progress; nothing is said of what is there already."""
    if manifest := step.sealed(store, source):
        return manifest
    with Reporter(step.stage.name, source.rows) as told:
        return run_stage(store, step, source, pool, run, told)


def tell_dropped(store: Store, manifest: Manifest) -> None:
    """Say what could not be used; raises InputError when nothing is left."""
    for reason, count in manifest.dropped.items():
        print(f"{manifest.stage}: {count:,} left out, {WHY.get(reason, reason)}", file=sys.stderr)
    if manifest.rows == 0:
        first = next((row for seal in manifest.parts for row in read_dropped(store, seal)), None)
        raise InputError(f"no row of {manifest.stage} is left" + (f"; the first: {first.detail}" if first else ""))


def report(
    store: Store,
    ranked: Manifest,
    settings: RetrieverSettings,
    depth: int,
    as_object: bool,
    by_group: bool,
    out: Path,
    rules: Mapping[str, Any],
) -> None:
    """Write a row per query and candidate, part by part, then the measures of all; rules: what JSON says of ranks."""
    sums: list[pl.DataFrame] = []
    seen: list[pl.DataFrame] = []

    def rows() -> Iterator[list[dict[str, Any]]]:
        for seal in ranked.parts:
            if seal.rows:
                queries = scored_queries(pl.DataFrame(read_part(store, seal)), depth)
                sums.append(totals(queries))
                if isinstance(settings, CHECKED):
                    seen.append(queries.select("id", "retriever", "number", "query", "rank"))
                each = queries.explode("methods").rename({"methods": "candidate"})
                yield each.select(columns.names).to_dicts()
        if seen:
            for note in check_found([settings], pl.concat(seen), depth):  # before OUT is replaced
                print(note, file=sys.stderr)

    whole = pa.int64()
    columns = pa.schema(
        {"id": pa.string(), "candidate": pa.string(), "query": pa.string()}
        | {"rank": whole, "ranks": pa.list_(whole), "reward": pa.float64()}
    )
    written = write_rows(out, columns, rows())
    found = evaluation(sums)
    print(f"{written:,} rows -> {out}", file=sys.stderr)
    if as_object:
        told = {"retriever": settings.label, "depth": depth, **rules, **as_json(found)}
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        show(found, by_group)


def show(found: Sequence[dict[str, Any]], by_group: bool) -> None:
    """The table of measures: of all queries, and by turn type and depth where that is asked for."""
    from rich.console import Console
    from rich.text import Text

    from flows.terminal.tables import table

    groups = list(dict.fromkeys(row["group"] for row in found))
    forms = {row["form"] for row in found} - {ANY}
    console = Console(emoji=False)
    measures = MEASURES if console.width >= WIDE else FEWER
    shown = table("", "queries", *measures, numbers=("queries", *measures))
    for group in groups if by_group else groups[:1]:
        for row in found:
            if row["group"] == group and (row["form"] != ANY or len(forms) > 1):
                form = form_name(row)
                name = f"{group}: {form}" if group else form
                shown.add_row(Text(name), f"{row['queries']:,}", *(decimals(row[measure]) for measure in measures))
    console.print(shown)
    if measures is FEWER:
        print(f"a terminal of {WIDE} columns, or --json, shows {', '.join(MEASURES)}", file=sys.stderr)
