"""From a row back to its inputs: through every artifact on the way, with the calls it was made from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb
import orjson
import pyarrow as pa

from schemas.artifacts import Manifest
from schemas.errors import StoreError
from schemas.rows import Dropped
from storage.artifacts import CALLS, Store, read_dropped
from storage.catalog import artifact_files, parquet, query

DERIVED = ("-chosen", "-rejected")
"""What formats that make two rows of one add to its id."""


class Call(NamedTuple):
    """What was asked and answered; messages: (role, content)."""

    key: str
    role: str
    engine: str
    messages: list[tuple[str, str]]
    text: str
    prompt_tokens: int
    completion_tokens: int


class Step(NamedTuple):
    """A row in one artifact. calls: those that this stage made it from."""

    manifest: Manifest
    row: dict[str, Any]
    calls: list[Call]


def walk(store: Store, row_id: str, manifests: Sequence[Manifest] | None = None) -> list[Step]:
    """The way to a row, its inputs first; empty where no artifact has it. manifests: where to look, the oldest first;
    default: everywhere. Of several artifacts the newest one's row is meant.
    """
    everywhere = list(store.manifests())
    by_key = {manifest.key: manifest for manifest in everywhere}
    ids = (row_id, plain_id(row_id))
    looked = ((one, known) for known in dict.fromkeys(ids) for one in reversed(manifests or everywhere))
    last, row_id = next(((one, known) for one, known in looked if rows_of(store, one, [known])), (None, row_id))
    found: list[Step] = []
    frontier, seen = {row_id}, set()
    ahead = [last] if last else []
    while ahead:
        manifest = ahead.pop(0)
        if manifest.key in seen:
            continue
        seen.add(manifest.key)
        for row in rows_of(store, manifest, sorted(frontier)):
            keys = row.pop(CALLS, None) or []
            found.append(Step(manifest, row, calls_of(store, keys)))
            if parent := row.get("parent_id"):
                frontier.add(parent)
        ahead += [by_key[key] for key in manifest.sources if key in by_key]
    return without_repeats(found[::-1])


def without_repeats(steps: list[Step]) -> list[Step]:
    """Stages that ask nothing pass the calls of their rows on: each is told where it was made."""
    told: set[str] = set()
    made = []
    for step in steps:
        made.append(step._replace(calls=[call for call in step.calls if call.key not in told]))
        told |= {call.key for call in step.calls}
    return made


def plain_id(row_id: str) -> str:
    """The id in the artifacts of a row as it was exported."""
    return next((row_id.removesuffix(end) for end in DERIVED if row_id.endswith(end)), row_id)


def rows_of(store: Store, manifest: Manifest, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The kept rows of an artifact with one of these ids."""
    files = [file for file in artifact_files(store, manifest) if file.exists()]
    if not files or "id" not in manifest.columns:
        return []
    sql = f"SELECT * FROM {parquet(files)} WHERE list_contains(?, id)"
    try:
        with duckdb.connect() as database:
            table: pa.Table = database.sql(sql, params=[list(ids)]).to_arrow_table()
    except duckdb.Error as error:
        said = " ".join(str(error).split())[:200]
        raise StoreError(f"{manifest.reference} is damaged ({said}); run its flow again, it is made anew") from error
    return [dict(row) for row in table.to_pylist()]


def calls_of(store: Store, keys: Sequence[str]) -> list[Call]:
    """Stored calls by key, in this order; those that are gone are left out."""
    if not keys:
        return []
    listed = ", ".join(f"'{bytes.fromhex(key).hex()}'" for key in keys)
    names = "key, role, engine, messages, text, prompt_tokens, completion_tokens"
    rows = {row[0]: row for row in query(store, f"SELECT {names} FROM calls WHERE key IN ({listed})")[1]}
    made = [Call._make(rows[key]) for key in keys if key in rows]
    return [call._replace(messages=orjson.loads(str(call.messages))) for call in made]


def drops_of(store: Store, row_id: str) -> list[tuple[Manifest, Dropped]]:
    """Where a row was dropped, and why."""
    return [
        (manifest, row)
        for manifest in store.manifests()
        for seal in manifest.parts
        for row in read_dropped(store, seal)
        if row.id == row_id
    ]
