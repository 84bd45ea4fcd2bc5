"""What a session reads: files, as tables or as rows of a kind, and tables in memory."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, NamedTuple

from synthmill.flows.making.plan import Source, file_source, memory_source, pool_source, table_source
from synthmill.schemas.errors import InputError
from synthmill.schemas.licenses import UNKNOWN
from synthmill.schemas.settings import QuestionSettings, SourceSettings, TableSettings, read_settings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.in_memory import MEMORY, arrow_of, with_ids
from synthmill.storage.plain_files.pools import PoolFile
from synthmill.storage.plain_files.rows import BENCH, INSTRUCTIONS, KNOWN_PROMPTS, QUESTIONS, RowKind

KINDS: Mapping[str, tuple[RowKind, type[SourceSettings]]] = {
    "prompts": (INSTRUCTIONS, SourceSettings),
    "questions": (QUESTIONS, QuestionSettings),
    "bench": (BENCH, SourceSettings),
    "known-prompts": (KNOWN_PROMPTS, SourceSettings),
}
POOLS = "pools"
KIND_NAMES = ", ".join((*KINDS, POOLS))


class Reading(NamedTuple):
    """A source, and what the run's record and the card say of it. is_table: whether its columns are the user's."""

    source: Source
    facts: dict[str, Any]
    is_table: bool


def reading_of(store: Store, source: Any, kind: str, rows_per_part: int, options: Mapping[str, Any]) -> Reading:
    """How a path or a table in memory is read. options: the settings of such a source, for instance id_column. Raises
    InputError.
    """
    if isinstance(source, str | PathLike):
        return reading_of_file(store, fspath(source), kind, rows_per_part, options)
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
    return Reading(memory_source(store, rows, dropped, rows_per_part), facts, is_table=True)


def reading_of_file(store: Store, path: str, kind: str, rows_per_part: int, options: Mapping[str, Any]) -> Reading:
    values = {"path": path, **options}
    if not kind:
        table = read_settings(TableSettings, None, values)
        return Reading(table_source(store, table, rows_per_part), table.model_dump(mode="json"), is_table=True)
    if kind == POOLS:
        table = read_settings(TableSettings, None, values)

        def file() -> PoolFile:
            return PoolFile(path, rewards=False, reference=True, single_turn=True)

        pools = pool_source(store, file, rows_per_part, table.limit)
        return Reading(pools, table.model_dump(mode="json"), is_table=False)
    if kind not in KINDS:
        raise InputError(f"no kind of rows is called {kind!r}; expected one of {KIND_NAMES}, or none: a table")
    row_kind, model = KINDS[kind]
    settings = read_settings(model, None, values)
    source = file_source(store, settings, rows_per_part, row_kind)
    return Reading(source, settings.model_dump(mode="json"), is_table=False)
