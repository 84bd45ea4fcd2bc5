"""`synthmill rank`: the ranks of gold passages under the queries of a plain file, by one retriever, and measures."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import polars as pl
import pyarrow as pa

from synthmill.flows.making.plan import Source, chain, file_source
from synthmill.flows.making.step_maker import step_maker
from synthmill.flows.methods.retpo.dataset import CHECKED, check_found, note_own, note_ties
from synthmill.flows.methods.retpo.search import plan_search
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.artifacts import Store, read_artifact, read_dropped, read_part
from synthmill.storage.plain_files.outputs import check_out, write_rows
from synthmill.storage.plain_files.turns import is_beir, queries_kind
from synthmill.storage.runs import new_run
from synthmill.tasks.retrieval.indexes import own_passages
from synthmill.tasks.retrieval.metrics import (
    ANY,
    MEASURES,
    as_json,
    decimals,
    evaluation,
    form_name,
    scored_queries,
    totals,
)
from synthmill.tasks.retrieval.retrievers import RetrieverSettings
from synthmill.tasks.retrieval.run_ranks import RunSettings
from synthmill.tasks.running.job import Planned

QUERIES_PER_PART = 4096
WIDE, FEWER = 110, ("MRR", "nDCG@10", "R@10", "MAP")
WHY = {
    "no_gold": "no relevant passage in the judgements",
    "unknown_passage": "no relevant passage in the corpus",
}


@dataclass(frozen=True)
class RankSettings:
    """The options of `synthmill rank`, but for the retriever's. ignore_identical_ids: None: on for BEIR files."""

    queries: str
    corpus: str
    qrels: str
    out: Path
    depth: int
    as_object: bool
    by_group: bool
    store: str
    workers: int
    ray_address: str | None
    limit: int | None
    ignore_identical_ids: bool | None = None


class Ranked(NamedTuple):
    """How many rows were written, their measures, and whether a query's own passage was left out."""

    rows: int
    measures: list[dict[str, Any]]
    ignores: bool


def rank_file(settings: RankSettings, retriever: RetrieverSettings) -> None:
    """Rank every query's gold passages; rows go to `out`, the table (or one JSON object) to standard output."""
    ranked = rank_queries(settings, retriever)
    print(f"{ranked.rows:,} rows -> {settings.out}", file=sys.stderr)
    if settings.as_object:
        summary: dict[str, Any] = {
            "retriever": retriever.label,
            "depth": settings.depth,
            "ignore_identical_ids": ranked.ignores,
        }
        if isinstance(retriever, RunSettings):
            summary["ties"] = retriever.ties
        summary |= as_json(ranked.measures)
        print(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())
    else:
        print_measures(ranked.measures, settings.by_group)


def rank_queries(settings: RankSettings, retriever: RetrieverSettings) -> Ranked:
    """Rank every query's gold passages and write `out`; what was left out is said. Raises InputError."""
    run_file = retriever.path if isinstance(retriever, RunSettings) else ""
    check_out(settings.out, settings.queries, settings.corpus, settings.qrels, run_file)
    queries = TurnSettings(path=settings.queries, qrels=settings.qrels, limit=settings.limit)
    kind = queries_kind(settings.qrels)
    store = Store(Path(settings.store).expanduser().resolve())
    passages = CorpusSettings(path=settings.corpus)
    ignores = settings.ignore_identical_ids
    ignores = is_beir(passages, settings.qrels) if ignores is None else ignores
    search = plan_search(store, passages, [retriever], settings.depth, ignores)
    source = file_source(store, queries, QUERIES_PER_PART, kind)
    steps = [*search.indexes, *chain({}, source.key, search.places, *search.ranks)]
    ranks = make_steps(settings, retriever, store, [search.corpus, source], steps)
    own = own_passages(store.root, search.corpus.key, pl.DataFrame(read_artifact(store, ranks, ("id",)))["id"])
    for note in (note_own(own, ignores), *note_ties([retriever])):
        if note:
            print(note, file=sys.stderr)
    rows, measures = write_ranks(store, ranks, retriever, settings.depth, settings.out)
    return Ranked(rows, measures, ignores)


def make_steps(
    settings: RankSettings,
    retriever: RetrieverSettings,
    store: Store,
    sources: Sequence[Source],
    steps: Sequence[Planned],
) -> Manifest:
    """Read corpus and queries, make the indexes and ranks: the manifest of the last step, under a run of its own."""
    store.prepare()
    files = {"queries": settings.queries, "corpus": settings.corpus}
    record = new_run("rank", {**files, "retriever": retriever.model_dump(mode="json")})
    with step_maker(store, record, settings.workers, settings.ray_address) as maker:
        for source in sources:
            print_dropped(store, maker.read(source))
        for step in steps:
            print_dropped(store, maker.make(step))
    return maker.manifests[steps[-1].key]


def print_dropped(store: Store, manifest: Manifest) -> None:
    """Say what could not be used; raises InputError when nothing is left."""
    for reason, count in manifest.dropped.items():
        print(f"{manifest.stage}: {count:,} left out, {WHY.get(reason, reason)}", file=sys.stderr)
    if manifest.rows == 0:
        first = next((row for seal in manifest.parts for row in read_dropped(store, seal)), None)
        raise InputError(f"no row of {manifest.stage} is left" + (f"; the first: {first.detail}" if first else ""))


def write_ranks(
    store: Store, ranks: Manifest, retriever: RetrieverSettings, depth: int, out: Path
) -> tuple[int, list[dict[str, Any]]]:
    """Write a row per query and candidate, part by part: (rows, the measures of all)."""
    sums: list[pl.DataFrame] = []
    ranks_to_check: list[pl.DataFrame] = []

    def rows() -> Iterator[list[dict[str, Any]]]:
        for seal in ranks.parts:
            if seal.rows:
                queries = scored_queries(pl.DataFrame(read_part(store, seal)), depth)
                sums.append(totals(queries))
                if isinstance(retriever, CHECKED):
                    ranks_to_check.append(queries.select("id", "retriever", "number", "query", "rank"))
                candidates = queries.explode("methods").rename({"methods": "candidate"})
                yield candidates.select(columns.names).to_dicts()
        if ranks_to_check:
            for note in check_found([retriever], pl.concat(ranks_to_check), depth):  # before OUT is replaced
                print(note, file=sys.stderr)

    integer = pa.int64()
    columns = pa.schema(
        {"id": pa.string(), "candidate": pa.string(), "query": pa.string()}
        | {"rank": integer, "ranks": pa.list_(integer), "reward": pa.float64()}
    )
    return write_rows(out, columns, rows()), evaluation(sums)


def print_measures(rows: Sequence[Mapping[str, Any]], by_group: bool) -> None:
    """The table of measures, of all queries. by_group: also by turn type (or topic) and by turn."""
    from rich.console import Console
    from rich.text import Text

    from synthmill.flows.terminal.tables import table

    groups = list(dict.fromkeys(row["group"] for row in rows))
    forms = {row["form"] for row in rows} - {ANY}
    console = Console(emoji=False)
    measures = MEASURES if console.width >= WIDE else FEWER
    lines = table("", "queries", *measures, numbers=("queries", *measures))
    for group in groups if by_group else groups[:1]:
        for row in rows:
            if row["group"] == group and (row["form"] != ANY or len(forms) > 1):
                form = form_name(row)
                name = f"{group}: {form}" if group else form
                lines.add_row(Text(name), f"{row['queries']:,}", *(decimals(row[measure]) for measure in measures))
    console.print(lines)
    if measures is FEWER:
        print(f"a terminal of {WIDE} columns, or --json, shows {', '.join(MEASURES)}", file=sys.stderr)
