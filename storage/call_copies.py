"""Parquet copies of sealed segments of calls, for DuckDB: one row per answer, with its question."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from synthmill.schemas.usage import Tokens, tokens_of
from synthmill.storage.copies import Copies, scratch_database, write_copy
from synthmill.storage.segments import FACTS, HEAD, Segment, sealed_segments
from synthmill.storage.sql import insert, quoted

COLUMNS = {
    **dict.fromkeys(("key", "engine", "role", "stage", "step", "run"), "VARCHAR"),
    "sample": "BIGINT",
    **dict.fromkeys(("messages", "sampling", "text", "finish_reason"), "VARCHAR"),
    **dict.fromkeys(Tokens._fields, "BIGINT"),
    **dict.fromkeys(("latency_s", "at"), "DOUBLE"),
    **dict.fromkeys(sorted(FACTS), "BOOLEAN"),
}
COPIES = "parquet"
NO_CALLS = f"SELECT {', '.join(f'NULL::{kind} AS {quoted(name)}' for name, kind in COLUMNS.items())} WHERE false"
ANSWERS_PER_BATCH = 20_000
BYTES_PER_COPY = 256 << 20  # of segments


def copy_calls(folder: Path, target: Path | None = None) -> list[Path]:
    """Parquet copies of the sealed segments of a folder, each segment in one of them; new segments are copied first.

    target: where new copies go, if not in the folder.
    """
    segments = {Path(name).stem: folder / name for name in sealed_segments(folder)}
    copies = Copies(folder / COPIES, segments, exact=True, columns=COLUMNS, target=target)
    missing = [segments[name] for name in sorted(copies.missing)]
    for batch in batches(missing):
        copies.add(lambda path, batch=batch: copy_segments(batch, path))  # type: ignore[misc]
    if target is None:
        copies.merge()
        copies.sweep()
    return sorted(copies.files)


def batches(segments: Sequence[Path]) -> Iterator[list[Path]]:
    """Segments in groups of about `BYTES_PER_COPY`."""
    batch: list[Path] = []
    size = 0
    for path in segments:
        batch.append(path)
        size += path.stat().st_size
        if size >= BYTES_PER_COPY:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def copy_segments(segments: Sequence[Path], path: Path) -> Collection[str]:
    """One copy of some segments; returns their names."""
    with scratch_database(path) as database:
        database.execute(
            f"CREATE TABLE calls ({', '.join(f'{quoted(name)} {kind}' for name, kind in COLUMNS.items())})"
        )
        rows = (row for segment in segments for row in answers(Segment(segment)))
        while batch := list(islice(rows, ANSWERS_PER_BATCH)):
            insert(database, "calls", batch)
        return write_copy(database, "SELECT * FROM calls", [segment.stem for segment in segments], path)


def answers(segment: Segment) -> Iterator[dict[str, Any]]:
    """Each answer of a segment, with its question, as a row of COLUMNS."""
    questions: dict[str, tuple[str, str]] = {}
    for kind, key, _, data in segment.lines():
        record = orjson.loads(data[HEAD:])
        if kind == b"Q":
            questions[key.hex()] = orjson.dumps(record["messages"]).decode(), orjson.dumps(record["sampling"]).decode()
        elif kind == b"A":
            messages, sampling = questions.get(record["ask"], ("[]", "{}"))
            tokens = tokens_of(record["prompt_tokens"], record["completion_tokens"], record.get("usage"))
            fields = {
                "step": record.get("stage"),
                **dict.fromkeys(FACTS, False),
                **record,
                **tokens._asdict(),
                "key": key.hex(),
                "messages": messages,
                "sampling": sampling,
            }
            yield {name: fields.get(name) for name in COLUMNS}
