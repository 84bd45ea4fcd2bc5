"""What a session reads: files, as tables or as rows of a kind, and tables in memory."""

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any, NamedTuple

import pyarrow as pa

from synthmill.flows.making.plan import Source, file_source, memory_source, pool_source, table_source
from synthmill.schemas.document_settings import DocumentSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.licenses import UNKNOWN
from synthmill.schemas.pools import ScoredPool
from synthmill.schemas.rows import arrow_schema
from synthmill.schemas.settings import FileSettings, QuestionSettings, SourceSettings, TableSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.documents import DOCUMENTS
from synthmill.storage.plain_files.in_memory import MEMORY, arrow_of, with_ids
from synthmill.storage.plain_files.pools import PoolFile
from synthmill.storage.plain_files.rows import BENCH, INSTRUCTIONS, KNOWN_PROMPTS, QUESTIONS, RowKind
from synthmill.storage.plain_files.turns import PASSAGES, turns_kind


class SourceKind(NamedTuple):
    """How a file of typed rows is read: the settings that say where, and what its rows become."""

    settings: type[FileSettings]
    kind: Callable[[Any], RowKind]


READ_AS: Mapping[str, SourceKind] = {
    "instructions": SourceKind(SourceSettings, lambda _: INSTRUCTIONS),
    "questions": SourceKind(QuestionSettings, lambda _: QUESTIONS),
    "known_prompts": SourceKind(SourceSettings, lambda _: KNOWN_PROMPTS),
    "bench_rows": SourceKind(SourceSettings, lambda _: BENCH),
    "turns": SourceKind(TurnSettings, lambda source: turns_kind(source.qrels)),
    "passages": SourceKind(CorpusSettings, lambda _: PASSAGES),
    "documents": SourceKind(DocumentSettings, lambda _: DOCUMENTS),
}
"""Kinds of rows by the name of their stage: `read_as` in a pipeline, `kind` in a session."""
POOLS = "pools"
SHORTER = {"prompts": "instructions", "bench": "bench_rows"}
KIND_NAMES = ", ".join((*READ_AS, POOLS, *SHORTER))


class Reading(NamedTuple):
    """A source with its columns, and what the run's record and the card say of it. is_table: whether the columns are
    the user's; from_nothing: whether the rows were made, not read.
    """

    source: Source
    columns: pa.Schema
    facts: dict[str, Any]
    is_table: bool
    from_nothing: bool = False


def reading_of(store: Store, source: Any, kind: str, rows_per_part: int, options: Mapping[str, Any]) -> Reading:
    """How a path, a table in memory or {"rows": N} is read. options: the settings of such a source, for instance
    id_column. Raises InputError.
    """
    if isinstance(source, str | PathLike):
        return reading_of_file(store, fspath(source), kind, rows_per_part, options)
    if isinstance(source, dict) and source.keys() == {"rows"}:
        return reading_of_nothing(store, source["rows"], kind, rows_per_part, options)
    table = arrow_of(source)
    if kind:
        raise InputError(
            f"kind={kind!r} is a way to read files; a table in memory is taken as it is: name its columns as the stage "
            "that takes them does"
        )
    if unknown := sorted(options.keys() - {"id_column", "license", "limit"}):
        raise InputError(f"{unknown[0]} means nothing to a table in memory; expected id_column, license or limit")
    if limit := options.get("limit"):
        table = table.slice(0, limit)
    rows, dropped = with_ids(table, options.get("id_column", "id"))
    facts = {"path": MEMORY, "license": options.get("license") or UNKNOWN}
    return Reading(memory_source(store, rows, rows_per_part, dropped=dropped), rows.schema, facts, is_table=True)


def reading_of_nothing(store: Store, count: Any, kind: str, rows_per_part: int, options: Mapping[str, Any]) -> Reading:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(
            f"rows is {count!r:.80}; expected how many rows to begin with, from nothing: a number from 1 on"
        )
    if unused := [*(["kind"] if kind else []), *options]:
        raise InputError(f"{unused[0]} means nothing to rows from nothing; leave it out")
    source, columns = rows_from_nothing(store, "", count, rows_per_part)
    return Reading(source, columns, {"rows": count}, is_table=True, from_nothing=True)


def rows_from_nothing(store: Store, step: str, count: int, rows_per_part: int) -> tuple[Source, pa.Schema]:
    """Rows with nothing but an id, the same whatever their number."""
    table = pa.table({"id": [content_hash(["row", number])[:24] for number in range(count)]})
    return memory_source(store, table, rows_per_part, step, look=f"{count:,} rows from nothing"), table.schema


def reading_of_file(store: Store, path: str, kind: str, rows_per_part: int, options: Mapping[str, Any]) -> Reading:
    values, kind = {"path": path, **options}, SHORTER.get(kind, kind)
    if kind in ("", POOLS):
        table = read_settings(TableSettings, None, values)
        facts = table.model_dump(mode="json")
        if not kind:
            return Reading(*table_source(store, table, rows_per_part), facts, is_table=True)

        def file() -> PoolFile:
            return PoolFile(path, rewards=False, reference=True, single_turn=True)

        return Reading(pool_source(store, file, rows_per_part, table.limit), arrow_schema(ScoredPool), facts, False)
    if kind not in READ_AS:
        raise InputError(f"no kind of rows is called {kind!r}; expected one of {KIND_NAMES}, or none: a table")
    settings = read_settings(READ_AS[kind].settings, None, values)
    row_kind = READ_AS[kind].kind(settings)
    source = file_source(store, settings, rows_per_part, row_kind)
    return Reading(source, arrow_schema(row_kind.model), settings.model_dump(mode="json"), is_table=False)
